"""Masked sequence packing: several examples in a row, each with the loss it would have alone.

A row of T slots holds segments 1, 2, … and padding 0. An example of t tokens fills t - 1 slots: the shift to
next-token targets is done inside the example, whose last token is only a target. Positions restart with each
segment.

Loss weights make packed training equal to training on one padded example a row (LWM, 2402.08268, section 4;
the padded regime averages each example over its own loss tokens, then averages over examples):

    L_m = 1/S · Σ_t w_t · nll_t over targets of modality m,    w_t = loss_t / (number of loss tokens of m in
    t's segment)

with S the number of segments in the global batch, whether or not they have targets of modality m.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

WEIGHTINGS = ("example", "token")


class Example(NamedTuple):
    """What goes into a segment.

    tokens: int32 [t] · is_vision: bool [t], the vocabulary of each · loss: bool [t], whether each is a target
    that counts (the first never is).
    """

    tokens: np.ndarray
    is_vision: np.ndarray
    loss: np.ndarray

    @property
    def slots(self) -> int:
        return len(self.tokens) - 1

    @property
    def splits(self) -> bool:
        """Whether its parts make sense alone: text learned from end to end, without pictures or a prompt."""
        return not self.is_vision.any() and bool(self.loss[1:].all())

    def cut(self, start: int, slots: int) -> "Example":
        """Returns the piece that fills `slots` slots from slot `start` on."""
        return Example(*(array[start : start + slots + 1] for array in self))


def pack_row(examples: Sequence[Example], length: int, weighting: str = "example") -> dict[str, np.ndarray]:
    """Lays examples into one row.

    Args:
      examples: in order; together they fill at most `length` slots.
      length: T.
      weighting: "example": every example weighs 1 in each modality, as in the formula above. "token": every
        loss token of a modality weighs the same in its row, and the row as much as the examples in it.

    Returns:
      tokens, targets, segments, positions int32 [T] · weights float32 [T] · is_vision, targets_are_vision
      bool [T]
    """
    sizes = np.asarray([example.slots for example in examples], np.int64)
    used = int(sizes.sum())
    if used > length or weighting not in WEIGHTINGS:
        raise ValueError(
            f"{used} slots of examples in a row of {length}, weighting {weighting!r} of {WEIGHTINGS}"
        )
    row = {
        "tokens": np.zeros(length, np.int32),
        "targets": np.zeros(length, np.int32),
        "weights": np.zeros(length, np.float32),
        "segments": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "is_vision": np.zeros(length, bool),
        "targets_are_vision": np.zeros(length, bool),
    }
    if not used:
        return row
    row["tokens"][:used] = np.concatenate([example.tokens[:-1] for example in examples])
    row["targets"][:used] = np.concatenate([example.tokens[1:] for example in examples])
    row["is_vision"][:used] = np.concatenate([example.is_vision[:-1] for example in examples])
    row["targets_are_vision"][:used] = np.concatenate([example.is_vision[1:] for example in examples])
    row["segments"][:used] = np.repeat(np.arange(1, len(sizes) + 1), sizes)
    row["positions"][:used] = np.arange(used) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    loss = np.concatenate([example.loss[1:] for example in examples])
    modality = row["targets_are_vision"][:used].astype(np.int64)
    group = modality + 2 * row["segments"][:used] if weighting == "example" else modality
    share = 1 if weighting == "example" else len(sizes)
    tokens_of_group = np.bincount(group, weights=loss)
    row["weights"][:used] = share * loss / np.maximum(tokens_of_group[group], 1)
    return row


def pack(examples: Iterable[Example], length: int, weighting: str = "example") -> dict[str, np.ndarray]:
    """Packs examples in order into as many rows as they need; returns the arrays of `pack_row` as [R, T].

    An example that does not fit the rest of a row is split if it `splits`, or if no row could hold it; else
    the rest of the row is padded. ValueError if an example with vision needs more than `length` slots.
    """
    rows, row, room = [], [], length
    for example in examples:
        start = 0
        while start < example.slots:
            piece = fit(example, start, room, length)
            if piece is not None:
                row.append(piece)
                start, room = start + piece.slots, room - piece.slots
            if piece is None or not room:
                rows.append(pack_row(row, length, weighting))
                row, room = [], length
    if row or not rows:
        rows.append(pack_row(row, length, weighting))
    return {name: np.stack([one[name] for one in rows]) for name in rows[0]}


def fit(example: Example, start: int, room: int, length: int) -> Example | None:
    """Returns the piece of `example`, from slot `start` on, that goes into `room` free slots of a row.

    None if the example has to wait for the next row.
    """
    if example.slots - start <= room:
        return example.cut(start, example.slots - start)
    if example.slots > length and example.is_vision.any():
        raise ValueError(f"an example with vision fills {example.slots} slots, the context has {length}")
    if example.splits or example.slots > length:
        return example.cut(start, room) if room else None
    return None
