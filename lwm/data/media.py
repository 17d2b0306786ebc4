"""Pictures of a folder on their way into a data folder: decoded, stored, encoded once.

Each file is first spooled (partial/frames, partial/codes), which is where an interrupted run goes on. Of what
is trained on, further views may be kept, each like a file of its own named "FILE#1", "FILE#2", …
"""

import contextlib
import functools
import hashlib
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from lwm.data import datasets, splits
from lwm.data.inputs import SPLITS, Item, media_kind
from lwm.data.progress import Track
from lwm.data.recipes import Recipe
from lwm.data.video import WHOLE, BrokenMedia, View, draw_view, read_image, read_video
from lwm.data.workers import Workers

Counts = dict[str, dict[str, int]]  # media file -> split -> frames
_CHUNK = 256  # frames handed to the encoder at a time


class Decoding(NamedTuple):
    """How the files of a folder are decoded. spool: where to · the rest as in `preparation.prepare`."""

    folder: str
    spool: epath.Path
    resolution: int
    fps: float
    max_frames: int
    heldout: float
    views: int
    seed: int

    def frames_of(self, asked: tuple[str, str | None]) -> Counts:
        """Spools a file (name, its split or None to split it in time) with its views; counts their frames.

        What is there already is not decoded again. Raises BrokenMedia.
        """
        name, split = asked
        total = self._spooled(name, name, WHOLE)
        if split:
            counts = {name: {split: total}}
        else:
            train = splits.train_frames(total, self.heldout)
            counts = {name: {"train": train}}
            if train < total:
                counts[name]["heldout"] = total - train
        for number in range(1, self.views if "train" in counts[name] else 1):
            random = np.random.default_rng((self.seed, zlib.crc32(name.encode()), number))
            self._spooled(name, view_name(name, number), draw_view(random))
            counts[view_name(name, number)] = {"train": counts[name]["train"]}
        return counts

    def spool_ahead(self, asked: tuple[str, str | None]) -> None:
        """As `frames_of`, for who comes later; a broken file is left to them."""
        with contextlib.suppress(BrokenMedia):
            self.frames_of(asked)

    def _spooled(self, name: str, view_name: str, view: View) -> int:
        """Frames of a view, decoded if they are not there yet."""
        path, kept = os.path.join(self.folder, name), _key(self.spool, view_name, "raw")
        size = self.resolution
        if not kept.exists() and media_kind(name) == "image":
            _spool(kept, [read_image(path, resolution=size, view=view)])
        elif not kept.exists():
            keeping = {"fps": self.fps, "max_frames": self.max_frames}
            _spool(kept, read_video(path, resolution=size, view=view, **keeping))
        return kept.stat().length // (size * size * 3)


def store_frames(
    folder: str,
    output: epath.Path,
    asked: Mapping[str, str | None],
    *,
    resolution: int,
    fps: float,
    max_frames: int,
    heldout: float,
    views: int,
    seed: int,
    track: Track,
    workers: Workers | None = None,
) -> tuple[Counts, list[tuple[str, str]]]:
    """Decodes the files `asked` ({name: its split, None to split it in time}) and writes them as Frames.

    Of what is trained on there are `views` views: the picture itself, the others drawn from `seed` and the
    file's name, each the same for all frames of its clip. `workers`, if any, decode all files first, except
    that a file which is broken there is tried once more here.

    Returns the frames of each file and view by split, and (name, reason) of the files that are broken.
    """
    spool = output / "partial" / "frames"
    spool.mkdir(parents=True, exist_ok=True)
    decoding = Decoding(folder, spool, resolution, fps, max_frames, heldout, views, seed)
    if workers:
        workers.each(decoding.spool_ahead, list(asked.items()))
    counts, broken = {}, []
    for one in track(asked.items(), "frames", len(asked), "files"):
        try:
            counts |= decoding.frames_of(one)
        except BrokenMedia as error:
            broken.append((one[0], str(error)))
    recipes = {}
    for split in SPLITS:
        held = [(name, by_split) for name, by_split in counts.items() if split in by_split]
        if held:
            firsts = [by_split.get("train", 0) if split == "heldout" else 0 for _, by_split in held]
            stored = [by_split[split] for _, by_split in held]
            items = [(name, *where) for (name, _), *where in zip(held, firsts, stored, strict=True)]
            make = functools.partial(_frame_records, spool=spool, resolution=resolution)
            recipes[split] = Recipe(items, make, stored)
    if recipes:
        datasets.write_frames(output, recipes, resolution=resolution, workers=workers)
    return counts, broken


def with_views(items: Iterable[Item], counts: Counts) -> list[Item]:
    """`items`, each picture followed by its further views."""
    shown = []
    for item in items:
        shown.append(item)
        number = 1
        while item.media and (view := view_name(item.media, number)) in counts:
            # A file that nothing is said about is its own item.
            shown.append(item._replace(media=view, path=view if item.path == item.media else item.path))
            number += 1
    return shown


def view_name(name: str, number: int) -> str:
    """What a further view of a file is called in `Counts` and in the spool."""
    return f"{name}#{number}"


def file_of_view(name: str) -> str:
    """The inverse of `view_name`; the name of a file itself comes back as it is."""
    file, mark, number = name.rpartition("#")
    return file if mark and number.isdigit() else name


def encode_media(
    output: epath.Path,
    counts: Counts,
    wanted: frozenset[str],
    encode: Callable[[np.ndarray], np.ndarray],
    track: Track,
) -> int | None:
    """Spools the codes of the files `wanted` and returns P, the codes of a frame; None if nothing is wanted.

    `encode(uint8 [F, R, R, 3]) -> int [F, P]` sees each frame once.
    """
    (output / "partial" / "codes").mkdir(parents=True, exist_ok=True)
    todo, starts = [], {}
    for name, by_split in counts.items():
        for split, total in by_split.items():
            start = starts.get(split, 0)
            starts[split] = start + total
            if name in wanted and not _codes_path(output, name, split).exists():
                todo.append((name, split, start, total))
    sources = {split: datasets.frames(output, split) for split in starts}
    for name, split, start, total in track(todo, "codes", len(todo), "clips"):
        chunks = [range(at, min(at + _CHUNK, start + total)) for at in range(start, start + total, _CHUNK)]
        codes = [encode(np.stack(sources[split].__getitems__(chunk))) for chunk in chunks]
        path = _codes_path(output, name, split)
        draft = path.parent / (path.name + ".part")
        with draft.open("wb") as file:
            np.save(file, np.concatenate(codes).astype(np.int32))
        draft.replace(path)
    for name in wanted:
        return load_codes(output, name, next(iter(counts[name]))).shape[1]
    return None


def in_batches(
    encode: Callable[[np.ndarray], np.ndarray], *, size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns `encode` as called on `size` frames at a time, the last padded: one shape to compile for."""

    def encode_all(frames_FRRC: np.ndarray) -> np.ndarray:
        codes = []
        for start in range(0, len(frames_FRRC), size):
            some = frames_FRRC[start : start + size]
            padded = np.pad(some, ((0, size - len(some)), (0, 0), (0, 0), (0, 0)))
            codes.append(np.asarray(encode(padded))[: len(some)])
        return np.concatenate(codes)

    return encode_all


def load_codes(output: epath.Path, name: str, split: str) -> np.ndarray:
    """Returns the spooled codes of a file in a split, int32 [F, P]."""
    with _codes_path(output, name, split).open("rb") as file:
        return np.load(file)


def frame_tokens(codes_FP: np.ndarray, codes: int) -> np.ndarray:
    """Returns the vision ids of whole frames, int32 [F · (P + 1)].

    After the codes of each frame comes eof = `codes`, after the last one eov = `codes` + 1 (LWM `data.py`).
    """
    tokens = np.pad(codes_FP.astype(np.int32), ((0, 0), (0, 1)), constant_values=codes).reshape(-1)
    tokens[-1] = codes + 1
    return tokens


def _spool(path: epath.Path, pictures: Iterable[np.ndarray]) -> None:
    """Writes pictures to `path` as raw bytes, all or none, whoever else does the same."""
    draft = path.parent / f"{path.name}.{uuid.uuid4().hex}.part"
    with draft.open("wb") as file:
        for picture in pictures:
            file.write(picture.tobytes())
    draft.replace(path)


def _frame_records(item: tuple[str, int, int], *, spool: epath.Path, resolution: int) -> Iterator[dict]:
    """Records of frames of a file: its name, the first of them, how many."""
    name, first, count = item
    size = resolution * resolution * 3
    with _key(spool, name, "raw").open("rb") as file:
        file.seek(first * size)
        for index in range(first, first + count):
            image = np.frombuffer(file.read(size), np.uint8).reshape(resolution, resolution, 3)
            yield {"image": image, "video": name, "index": index}


def _codes_path(output: epath.Path, name: str, split: str) -> epath.Path:
    return _key(output / "partial" / "codes", f"{split}:{name}", "npy")


def _key(folder: epath.Path, name: str, suffix: str) -> epath.Path:
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.{suffix}"
