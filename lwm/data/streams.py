"""The documents of one source as one lane sees them: shuffled, repeated, each visit made an Example.

Everything random about a visit (which field string, caption dropout, which frames) is drawn from a generator
seeded by (seed, source, number of the visit), so a stream is described by two integers: visit and slot.
"""

import functools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import grain
import numpy as np

from lwm.data.datasets import Document
from lwm.data.fields import VISION, Group, drop_condition, parse_fields
from lwm.data.packing import Example, fit
from lwm.errors import UserError

_SMALL, _TABLE = 256, 16384
_WORTH_CUTTING = 4  # a window of a longer video is cut to what is left of a row if that is a quarter of it


class Marks(NamedTuple):
    """Ids that frame the parts of an example, from data.json."""

    bos: int
    eos: int
    vision_start: tuple[int, ...]
    vision_end: tuple[int, ...]
    tokens_per_frame: int
    eov: int

    @classmethod
    def of(cls, manifest: dict) -> "Marks":
        return cls(
            manifest["bos"],
            manifest["eos"],
            tuple(manifest["vision_start"]),
            tuple(manifest["vision_end"]),
            (manifest["codes_per_frame"] or 0) + 1,
            manifest["eov"] or 0,
        )

    def slots_around_frames(self, text_tokens: int) -> int:
        """Returns the slots of an example with a vision part, less those of its frames."""
        return text_tokens + len(self.vision_start) + len(self.vision_end) + 1  # bos and eos, less the shift


@functools.lru_cache(maxsize=64)
def shuffled(count: int, *, seed: int) -> grain.MapDataset:
    """Returns an endless order of `count` records, each epoch a permutation of its own; lanes share it."""
    if count >= _SMALL:
        return grain.MapDataset.range(count).shuffle(seed=seed).repeat()
    # Grain's shuffle takes milliseconds an index among a handful, so few records get a table of epochs.
    epochs = np.tile(np.arange(count), (-(-_TABLE // count), 1))
    return grain.MapDataset.source(np.random.default_rng(seed).permuted(epochs, axis=1).reshape(-1)).repeat()


def example_of(
    document: Document, groups: Sequence[Group], marks: Marks, *, slots: int, draw: float
) -> Example | None:
    """Joins the parts of a document that `groups` name, between begin and end of document.

    A vision part is cut to as many whole frames as `slots` slots can hold; `draw` in [0, 1) says which of the
    possible windows. Returns None if not one frame fits. Text is never cut here.
    """
    parts = document.parts()
    named = [name for group in groups for name in group.parts]
    if VISION in named:
        text = sum(len(parts[name]) for name in named if name != VISION)
        kept = min(
            _frames(document, marks), (slots - marks.slots_around_frames(text)) // marks.tokens_per_frame
        )
        if kept < 1:
            return None
        first = int(draw * (_frames(document, marks) - kept + 1))
        window = parts[VISION][
            first * marks.tokens_per_frame : (first + kept) * marks.tokens_per_frame
        ].copy()
        window[-1] = marks.eov
    pieces = [([marks.bos], False, False)]  # ids, is vision, counts as a target
    for group in groups:
        for name in group.parts:
            if name == VISION:
                pieces.append((marks.vision_start, False, group.loss))
                pieces.append((window, True, group.loss))
                pieces.append((marks.vision_end, False, group.loss))
            else:
                pieces.append((parts[name], False, group.loss))
    pieces.append(([marks.eos], False, True))
    sizes = [len(ids) for ids, _, _ in pieces]
    return Example(
        tokens=np.concatenate([ids for ids, _, _ in pieces]).astype(np.int32),
        is_vision=np.repeat([vision for _, vision, _ in pieces], sizes),
        loss=np.repeat([loss for _, _, loss in pieces], sizes),
    )


class Stream:
    """One lane's documents of one source; `take` hands out pieces for rows of `length` slots.

    Args:
      documents: random access to `Document`s.
      name, seed: what randomness is drawn from.
      lane, lanes: this stream visits every `lanes`-th document of the shuffled order, from the `lane`-th on.
      repeat: shuffle anew and go on after each epoch; else one pass in stored order.
      length: T.
      caption_dropout: chance that the unlearned text ahead of a learned vision part is left out.
      swap_order: draw one of a document's field strings at each visit; else always take the first.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        marks: Marks,
        *,
        name: str,
        seed: int,
        lane: int,
        lanes: int,
        repeat: bool,
        length: int,
        caption_dropout: float,
        swap_order: bool,
    ):
        self._entropy = (seed, zlib.crc32(name.encode()))
        self._order = grain.MapDataset.range(len(documents))
        if repeat:
            self._order = shuffled(len(documents), seed=sum(self._entropy) % 2**32)
        self._documents, self._marks, self._length = documents, marks, length
        self._lane, self._lanes = lane, lanes
        self._caption_dropout, self._swap_order = caption_dropout, swap_order
        self._visit, self._start = 0, 0
        self._open: _Visit | None = None

    @property
    def ended(self) -> bool:
        return self._number >= len(self._order)

    def take(self, room: int) -> Example | None:
        """Returns the next piece that goes into `room` free slots, or None if the row has to end here."""
        if self.ended:
            return None
        example = self._example(room)
        piece = example and fit(example, self._start, room, self._length)
        if piece is not None:
            self._start += piece.slots
            if self._start == example.slots:
                self._visit, self._start = self._visit + 1, 0
        return piece

    def get_state(self) -> list[int]:
        return [self._visit, self._start]

    def set_state(self, state: list[int]) -> None:
        self._visit, self._start = state

    @property
    def _number(self) -> int:
        """The number of the present visit among those of all lanes."""
        return self._lane + self._lanes * self._visit

    def _example(self, room: int) -> Example | None:
        """The example of the present visit; a video longer than the context may be cut to `room`."""
        if self._open is None or self._open.number != self._number:
            self._open = self._begin_visit()
        visit = self._open
        video_goes_on = visit.frames > visit.whole.is_vision.sum() // self._marks.tokens_per_frame > 0
        if video_goes_on and self._length > room >= self._length / _WORTH_CUTTING:
            return example_of(visit.document, visit.groups, self._marks, slots=room, draw=visit.draw)
        return visit.whole

    def _begin_visit(self) -> "_Visit":
        document = self._documents[self._order[self._number]]
        random = np.random.default_rng((*self._entropy, self._number))
        which, dropped, draw = random.random(3)
        fields = document.fields[int(which * len(document.fields)) if self._swap_order else 0]
        groups = parse_fields(fields)
        if dropped < self._caption_dropout:
            groups = drop_condition(groups)
        whole = example_of(document, groups, self._marks, slots=self._length, draw=draw)
        if whole is None:
            text = int(document.lengths[~document.vision].sum())
            needed = self._marks.slots_around_frames(text) + self._marks.tokens_per_frame
            raise UserError(
                f"context_length: {self._length} does not hold a frame beside {text} tokens of text; "
                f"give at least {needed}, or prepare with --max_caption"
            )
        return _Visit(self._number, document, groups, draw, _frames(document, self._marks), whole)


class _Visit(NamedTuple):
    number: int
    document: Document
    groups: tuple[Group, ...]
    draw: float
    frames: int
    whole: Example


def _frames(document: Document, marks: Marks) -> int:
    """Frames in the vision part of a document, 0 without one."""
    return int(document.lengths[document.vision].sum()) // marks.tokens_per_frame
