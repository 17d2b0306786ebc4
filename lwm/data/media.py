"""Pictures of a folder on their way into a data folder: decoded once, stored, encoded once.

Each file is first spooled (partial/frames, partial/codes), which is where an interrupted run goes on.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from etils import epath

from lwm.data import datasets, splits
from lwm.data.inputs import media_kind
from lwm.data.progress import track
from lwm.data.video import BrokenMedia, read_image, read_video

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
    seed: int,
) -> tuple[Counts, list[tuple[str, str]]]:
    """Decodes the files `asked` ({name: split or None}) and writes them as Frames.

    Returns the frames of each file by split, and (name, reason) of the files that are broken.
    """
    spool = output / "partial" / "frames"
    spool.mkdir(parents=True, exist_ok=True)
    counts, broken = {}, []
    loose = splits.heldout_names(
        (n for n, s in asked.items() if not s and media_kind(n) == "image"), heldout, seed
    )
    for name, split in track(asked.items(), "frames", len(asked), "files"):
        path = os.path.join(folder, name)
        try:
            if media_kind(name) == "image":
                pictures = iter([read_image(path, resolution=resolution)])
            else:
                pictures = read_video(path, resolution=resolution, fps=fps, max_frames=max_frames)
            total = _spool(_key(spool, name, "raw"), pictures, resolution)
        except BrokenMedia as error:
            broken.append((name, str(error)))
            continue
        if split or media_kind(name) == "image":
            counts[name] = {split or ("heldout" if name in loose else "train"): total}
        else:
            train = splits.train_frames(total, heldout)
            counts[name] = {"train": train, "heldout": total - train} if train < total else {"train": total}
    if counts:
        held = {split for by_split in counts.values() for split in by_split}
        records = {
            split: lambda split=split: _frame_records(spool, counts, split, resolution) for split in held
        }
        datasets.write_frames(output, records, resolution=resolution)
    return counts, broken


def encode_media(
    output: epath.Path, counts: Counts, wanted: frozenset[str], encode: Callable[[np.ndarray], np.ndarray]
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


def _spool(path: epath.Path, pictures: Iterator[np.ndarray], resolution: int) -> int:
    """Writes pictures to `path` as raw bytes unless they are there already; returns how many."""
    if not path.exists():
        draft = path.parent / (path.name + ".part")
        with draft.open("wb") as file:
            for picture in pictures:
                file.write(picture.tobytes())
        draft.replace(path)
    return path.stat().length // (resolution * resolution * 3)


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
