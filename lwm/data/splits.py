"""Which documents and which frames are held out: a function of names and counts, so that every run agrees."""

import hashlib
from collections.abc import Iterable

from lwm.data.inputs import Item, media_kind

MIN_HELDOUT_FRAMES = 8


def heldout_names(names: Iterable[str], fraction: float, seed: int) -> frozenset[str]:
    """Returns the share `fraction` of `names` with the lowest hashes: at least one of two, never all."""
    names = sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    count = min(max(round(fraction * len(names)), 1), len(names) - 1) if fraction and names else 0
    return frozenset(names[:count])


def train_frames(frames: int, fraction: float) -> int:
    """Returns how many frames from the start of a video are for training; the rest is held out.

    The held-out share is `fraction` of the frames and at least MIN_HELDOUT_FRAMES; a video too short to leave
    as many for training is not split. `fraction` is at most a half.
    """
    heldout = max(round(fraction * frames), MIN_HELDOUT_FRAMES) if fraction else 0
    return frames if 2 * heldout > frames else frames - heldout


def assign_splits(items: list[Item], fraction: float, seed: int) -> list[Item]:
    """Gives each text and image its split, a share of each source; videos are split in time when read."""
    loose, held = {}, set()  # an image stays in one split with all that is said about it
    for item in items:
        if item.split is None and (item.media is None or media_kind(item.media) == "image"):
            loose.setdefault(item.source, set()).add(item.media or item.name)
    for names in loose.values():
        held |= heldout_names(names, fraction, seed)
    known = set().union(*loose.values())
    return [
        item._replace(split="heldout" if (item.media or item.name) in held else "train")
        if item.split is None and (item.media or item.name) in known
        else item
        for item in items
    ]
