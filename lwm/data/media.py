"""Pictures of a folder on their way into a data folder: decoded, stored, encoded once.

Each file is first spooled (partial/frames, partial/codes), which is where an interrupted run goes on. Of what
is trained on, further views may be kept, each like a file of its own named "FILE#1", "FILE#2", …
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from etils import epath

from lwm.data import datasets, splits
from lwm.data.inputs import SPLITS, Item, media_kind
from lwm.data.progress import Track
from lwm.data.video import WHOLE, BrokenMedia, View, draw_view, read_image, read_video

Counts = dict[str, dict[str, int]]  # media file -> split -> frames
_CHUNK = 256  # frames handed to the encoder at a time


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
) -> tuple[Counts, list[tuple[str, str]]]:
    """Decodes the files `asked` ({name: its split, None to split it in time}) and writes them as Frames.

    Of what is trained on there are `views` views: the picture itself, the others drawn from `seed` and the
    file's name, each the same for all frames of its clip.

    Returns the frames of each file and view by split, and (name, reason) of the files that are broken.
    """
    spool = output / "partial" / "frames"
    spool.mkdir(parents=True, exist_ok=True)

    def spooled(name: str, view_name: str, view: View) -> int:
        """Frames of a view, decoded if they are not there yet."""
        path, kept = os.path.join(folder, name), _key(spool, view_name, "raw")
        if not kept.exists() and media_kind(name) == "image":
            _spool(kept, [read_image(path, resolution=resolution, view=view)])
        elif not kept.exists():
            _spool(kept, read_video(path, resolution=resolution, fps=fps, max_frames=max_frames, view=view))
        return kept.stat().length // (resolution * resolution * 3)

    counts, broken = {}, []
    for name, split in track(asked.items(), "frames", len(asked), "files"):
        try:
            total = spooled(name, name, WHOLE)
            if split:
                counts[name] = {split: total}
            else:
                train = splits.train_frames(total, heldout)
                counts[name] = {"train": train}
                if train < total:
                    counts[name]["heldout"] = total - train
            for number in range(1, views if "train" in counts[name] else 1):
                random = np.random.default_rng((seed, zlib.crc32(name.encode()), number))
                spooled(name, view_name(name, number), draw_view(random))
                counts[view_name(name, number)] = {"train": counts[name]["train"]}
        except BrokenMedia as error:
            broken.append((name, str(error)))
    if counts:
        held = [split for split in SPLITS if any(split in by_split for by_split in counts.values())]
        records = {
            split: lambda split=split: _frame_records(spool, counts, split, resolution) for split in held
        }
        datasets.write_frames(output, records, resolution=resolution)
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
    """Writes pictures to `path` as raw bytes, all or none."""
    draft = path.parent / (path.name + ".part")
    with draft.open("wb") as file:
        for picture in pictures:
            file.write(picture.tobytes())
    draft.replace(path)


def _frame_records(spool: epath.Path, counts: Counts, split: str, resolution: int) -> Iterator[dict]:
    for name, by_split in counts.items():
        first = by_split.get("train", 0) if split == "heldout" else 0
        size = resolution * resolution * 3
        with _key(spool, name, "raw").open("rb") as file:
            file.seek(first * size)
            for index in range(first, first + by_split.get(split, 0)):
                image = np.frombuffer(file.read(size), np.uint8).reshape(resolution, resolution, 3)
                yield {"image": image, "video": name, "index": index}


def _codes_path(output: epath.Path, name: str, split: str) -> epath.Path:
    return _key(output / "partial" / "codes", f"{split}:{name}", "npy")


def _key(folder: epath.Path, name: str, suffix: str) -> epath.Path:
    return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.{suffix}"
