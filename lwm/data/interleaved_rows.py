"""Pieces of documents of text and pictures, several in a row.

With pictures to be drawn the last slots of a row are a segment of its own that stands for no condition: the
sequence that 2309.11499 puts in place of a text for guidance without a classifier (2207.12598).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lwm.data.interleaved_pieces import Marks, Piece
from lwm.data.packing import Example, pack_row


class Room(NamedTuple):
    """What a row holds. slots: of documents · spare: slots behind them for no condition · images: pictures of
    documents, at most · frames: I, pictures of which the array has room · captions: ids of a caption, with
    the begin of text in front, at most; 0 = there are no captions.
    """

    slots: int
    spare: int
    images: int
    frames: int
    captions: int = 0


def page_row(
    pieces: Sequence[Piece], marks: Marks, room: Room, resolution: int, weighting: str = "example"
) -> dict[str, np.ndarray]:
    """One row of pieces that together fit it, in natural order; see the top of this file."""
    row = pack_row([piece.example for piece in pieces], room.slots, weighting)
    row["places"] = np.zeros(room.slots, np.int32)
    at = shown = 0
    frames = np.zeros((room.frames, resolution, resolution, 3), np.uint8)
    weights = np.zeros(room.frames, np.float32)
    captions = np.zeros((room.frames, room.captions), np.int32)
    for piece in pieces:
        own, count = piece.places[:-1], len(piece.images)
        row["places"][at : at + len(own)] = np.where(own > 0, own + shown * marks.span, 0)
        frames[shown : shown + count] = piece.images
        for number, ids in enumerate(piece.captions if room.captions else (), start=shown):
            ids = [marks.bos, *ids][: room.captions]
            captions[number, : len(ids)] = ids
        at, shown = at + len(own), shown + count
    if pieces:
        weights[:shown] = drawn_weights(pieces, weighting)
    if room.spare:
        spare = nothing(marks, room.frames)
        last = pack_row([spare.example], room.spare, weighting) | {"places": spare.places[:-1]}
        last["segments"] = last["segments"] + row["segments"].max()
        row = {name: np.concatenate([array, last[name]]) for name, array in row.items()}
    row |= {"frames": frames, "frame_weights": weights}
    return row | {"captions": captions} if room.captions else row


def nothing(marks: Marks, images: int) -> Piece:
    """<s> <dream_start> q … <dream_end> </s>, what stands for no condition, as picture number `images`."""
    Q = marks.queries
    tokens = [marks.bos, marks.dream_start, *[0] * Q, marks.dream_start + 1, marks.eos]
    places = np.zeros(Q + 4, np.int32)
    places[2 : Q + 2] = 1 + images * marks.span + marks.patches + np.arange(Q)
    never = np.zeros(Q + 4, bool)
    example = Example(np.asarray(tokens, np.int32), never, never)
    return Piece(example, places, np.zeros((0, 0, 0, 3), np.uint8), [], True)


def drawn_weights(pieces: Sequence[Piece], weighting: str) -> np.ndarray:
    """float32, the weight of each picture of a row in the loss of denoising; 0 = it is not drawn.

    weighting: as in `pack_row`. "example": the pictures of a piece weigh 1 together; "token": those of a row
    weigh the same, and together as much as the pieces in it.
    """
    counts = [len(piece.images) * piece.drawn for piece in pieces]
    shares = [1 / max(count, 1) for count in counts]
    if weighting == "token":
        shares = [len(pieces) / max(sum(counts), 1)] * len(pieces)
    weights = [
        np.full(len(piece.images), share * piece.drawn) for piece, share in zip(pieces, shares, strict=True)
    ]
    return np.concatenate(weights).astype(np.float32)
