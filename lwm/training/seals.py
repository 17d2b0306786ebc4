"""What a checkpoint was when it was saved: size and checksum of each of its files, in <step>/seal.json.

The seal is written in the background, into the draft of a checkpoint, after all hosts have written their part
and before Orbax gives the draft its name. So a checkpoint that is complete is sealed, there is no moment
between the two, and the one before it goes only when it is. `about` says that there is a seal: one that is
lost is noticed. Checkpoints from before there were seals say nothing of the kind and are taken as they are.
"""

import hashlib
import json
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import orbax.checkpoint as ocp
from etils import epath

SEAL = "seal.json"
MARK = {"sealed": True}  # part of `about`
# Orbax writes the last two of them after the seal. No weight depends on what they say.
_OUTSIDE = (SEAL, "_CHECKPOINT_METADATA", "commit_success.txt")
_BLOCK = 2**22  # bytes
_LARGEST = 2**26  # bytes of a seal
_THREADS = 8


def sealing(folder: epath.Path) -> ocp.AsyncOptions:
    """How a checkpoint manager of this folder seals what it saves; on the first host, in the background."""

    def seal() -> None:
        for draft in ocp.path.step.all_temporary_paths(folder):
            write_seal(draft.get())

    return ocp.AsyncOptions(post_finalization_callback=seal)


def write_seal(checkpoint: epath.PathLike) -> None:
    """Writes the seal of the files that are there."""
    checkpoint = epath.Path(checkpoint)
    files = _files(checkpoint)
    with ThreadPoolExecutor(_THREADS) as pool:
        seals = dict(zip(files, pool.map(_seal, files.values()), strict=True))
    rows = {name: {"bytes": size, "blake2b": checksum} for name, (size, checksum) in seals.items()}
    (checkpoint / SEAL).write_text(json.dumps({"files": rows}, separators=(",", ":")))


def damage(checkpoint: epath.PathLike, parts: Collection[str] = ()) -> str | None:
    """The first thing that is wrong with a complete checkpoint, None if nothing is; reads all bytes once.

    Args:
      parts: folders in it to look at, such as "params"; () = all.
    """
    checkpoint = epath.Path(checkpoint)
    try:
        if not (checkpoint / SEAL).exists():
            return _unsealed(checkpoint)
        sealed = _read(checkpoint / SEAL)
        if sealed is None:
            return f"{SEAL} is broken"
        found = _files(checkpoint)
        sealed, found = (
            {name: value for name, value in files.items() if not parts or name.split("/")[0] in parts}
            for files in (sealed, found)
        )
        if lost := sorted(sealed.keys() - found.keys()):
            return f"{lost[0]} is missing"
        if strange := sorted(found.keys() - sealed.keys()):
            return f"{strange[0]} is not of this checkpoint"
        for name, (size, _) in sealed.items():
            if (length := found[name].stat().length) != size:
                return f"{name} has {length} bytes instead of {size}"
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, seal in zip(found, pool.map(_seal, found.values()), strict=True):
                if seal != sealed[name]:
                    return f"{name} has changed since it was saved"
    except OSError as error:
        return f"{error.filename or 'a file'} cannot be read ({error.strerror or error})"
    return None


def _unsealed(checkpoint: epath.Path) -> str | None:
    """As `damage`, for a checkpoint without a seal."""
    path = checkpoint / "about" / "metadata"
    if not path.exists():
        return "about/metadata is missing"
    try:
        about = json.loads(path.read_text())
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        return "about/metadata is broken"
    return f"{SEAL} is missing" if MARK.items() <= about.items() else None


def _read(path: epath.Path) -> dict[str, tuple[int, str]] | None:
    if path.stat().length > _LARGEST:
        return None
    try:
        files = json.loads(path.read_text())["files"]
        return {name: (row["bytes"], row["blake2b"]) for name, row in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _files(checkpoint: epath.Path, prefix: str = "") -> dict[str, epath.Path]:
    """All files below a folder by their path in it, in order."""
    files = {}
    for path in sorted(checkpoint.iterdir()):
        if path.is_dir() and not os.path.islink(path):
            files |= _files(path, f"{prefix}{path.name}/")
        elif prefix or path.name not in _OUTSIDE:
            files[f"{prefix}{path.name}"] = path
    return files


def _seal(path: epath.Path) -> tuple[int, str]:
    size, checksum = 0, hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(block)
            checksum.update(block)
    return size, checksum.hexdigest()
