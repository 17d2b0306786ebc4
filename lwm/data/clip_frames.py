"""Clips of real frames: `clips.py` says which frames of which scene, here they come from a data folder.

A scene is what a split holds of one video file: the held-out frames of a video are its last ones, so that
clips of the two splits have no frame in common. Further views of a file (`lwm.prepare --views`) are the same
scene seen otherwise: a clip shows one of them, and its odd frames come from other files. A few videos
are soon known by their colours; `recolour` makes 24 of each.
"""

import functools
import random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from lwm.data import datasets
from lwm.data.clips import SCENES, compose, even_places
from lwm.data.inputs import media_kind
from lwm.data.manifest import RECORD, load_record
from lwm.data.media import file_of_view
from lwm.errors import UserError

_MEMORY = 2**28  # bytes of frames that are kept: all those of a miniature


class Filmed(NamedTuple):
    """task: of clips.TASKS · frames: uint8 [F, R, R, 3], those of the video, then those shown again · answer:
    a digit.
    """

    task: str
    frames: np.ndarray
    answer: str


class FilmedClips:
    """Clips of one split of a data folder; `draw(seed)` is a function of the seed alone.

    Args:
      mixture, frames, shown: see `clips.check_clips`.
      recolour: deal out the colours of a training clip among its channels, and show every other one as its
        negative, every other one mirrored; its odd frames with it. Held-out clips stay as they are.

    Raises:
      UserError: the folder holds frames of fewer than `clips.SCENES` videos in this split.
    """

    def __init__(
        self,
        data_dir: epath.PathLike,
        split: str,
        *,
        mixture: Mapping[str, float],
        frames: int,
        shown: int,
        recolour: bool = False,
    ):
        self._scenes = list(scenes(data_dir, split).values())
        if len(self._scenes) < SCENES:
            raise UserError(
                f"frames: {frames} of a clip come from {SCENES} videos, and {data_dir} has {split} frames of "
                f"{len(self._scenes)}; prepare more videos"
            )
        self._mixture = {name: weight for name, weight in mixture.items() if weight}
        self._count, self._places = frames, even_places(frames, shown or frames)
        self._recolour = recolour and split == "train"
        source = datasets.frames(data_dir, split)
        self.resolution = source[0].shape[0]
        self._read = functools.lru_cache(max(_MEMORY // source[0].nbytes, 1))(source.__getitem__)

    def draw(self, seed: str) -> Filmed:
        """The same clip is drawn for every `shown`."""
        rng = random.Random(f"clip {seed}")
        (task,) = rng.choices(list(self._mixture), list(self._mixture.values()))
        views = [rng.choice(own) for own in self._scenes]
        made = compose(task, [len(view) for view in views], self._count, seed)
        picked = [*made.frames[self._places], *made.again]
        frames = np.stack([self._read(views[scene][place]) for scene, place in picked])
        return Filmed(task, _recoloured(frames, rng) if self._recolour else frames, made.answer)


def _recoloured(frames: np.ndarray, rng: random.Random) -> np.ndarray:
    frames = frames[..., rng.sample(range(3), 3)]
    frames = 255 - frames if rng.random() < 0.5 else frames
    return frames[..., ::-1, :] if rng.random() < 0.5 else frames


def scenes(data_dir: epath.PathLike, split: str) -> dict[str, list[range]]:
    """Returns {video file: numbers of its Frames in the split, a range for each view}."""
    there = (epath.Path(data_dir) / RECORD).exists()
    counts = (load_record(data_dir)["media"] if there else None) or {}
    found, start = {}, 0
    for name, by_split in counts.items():
        file, count = file_of_view(name), by_split.get(split, 0)
        if count and media_kind(file) == "video":
            found.setdefault(file, []).append(range(start, start + count))
        start += count
    return found
