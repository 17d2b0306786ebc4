"""Documents of text and pictures as a DreamLLM reads them, cut into pieces that fit a row (2309.11499).

Learned are texts that are said to be, the end of the document and, in joint documents, <dream_start>: that is
how the model learns where pictures belong. Queries, patches and the other delimiters are never learned.
"""

from typing import NamedTuple

import numpy as np

from lwm.data.interleaved_records import PageRecord
from lwm.data.packing import Example
from lwm.data.tokenizers import Tokenizer
from lwm.errors import UserError


class Marks(NamedTuple):
    """bos, eos · dream_start: id of the first of the delimiters <dream_start>, <dream_end>, <image_start>,
    <image_end> · queries, patches: Q and P of a picture.
    """

    bos: int
    eos: int
    dream_start: int
    queries: int
    patches: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, queries: int, patches: int) -> "Marks":
        return cls(tokenizer.bos, tokenizer.eos, tokenizer.vocab_size, queries, patches)

    @property
    def span(self) -> int:
        """Numbers of the places of one picture."""
        return self.queries + self.patches

    def block(self, form: str) -> int:
        """Tokens that stand for a picture, at most."""
        if form == "pairs":
            return max(self.block("comprehension"), self.block("creation"))
        dreamed, seen = form != "comprehension", form != "creation"
        return dreamed * (self.queries + 2) + seen * (self.patches + 2)


class Piece(NamedTuple):
    """What goes into one segment of a row.

    example: tokens and what is learned · places: int32 [t], see `lwm.models.dreamllm`, pictures numbered from
    0 on · images: uint8 [k, R, R, 3] · captions: ids of the text before each, or of the first text · drawn:
    whether they are drawn.
    """

    example: Example
    places: np.ndarray
    images: np.ndarray
    captions: list[np.ndarray]
    drawn: bool


def pieces_of(
    page: PageRecord, form: str, marks: Marks, *, slots: int, images: int, coin: bool = False
) -> list[Piece]:
    """A document as pieces of at most so many slots and pictures, in order: nothing is left out.

    It is cut behind a picture if it can be; else before one; else, in a longer text, anywhere. The token
    behind a cut is the last target of the piece before it and the first input of the piece after it.

    Args:
      form: of `interleaved_forms`.
      coin: which of the two ways, for pairs: whether pictures are drawn.

    Raises:
      UserError: `slots` do not hold a picture.
    """
    texts = np.split(page.tokens, np.cumsum(page.lengths)[:-1])
    captions = [texts[max(position - 1, 0)] for position in page.positions]
    if form == "pairs":
        first = len(page.lengths) if coin else 0
        page = page._replace(positions=np.full_like(page.positions, first))
        form = "creation" if coin else "comprehension"
    if len(page.images) and marks.block(form) > slots:
        raise UserError(
            f"context_length: {slots} slots do not hold a picture of {marks.block(form)}; raise it"
        )
    tokens, loss, places, starts = _laid_out(page, form, marks)
    ends = starts + marks.block(form)
    cuts = [0]
    while (at := _next_cut(cuts[-1], len(tokens) - 1, starts, ends, slots, images)) > cuts[-1]:
        cuts.append(at)
    pieces = []
    for start, stop in zip(cuts, cuts[1:], strict=False):
        first, last = np.searchsorted(starts, (start, stop))
        example = Example(tokens[start : stop + 1], np.zeros(stop + 1 - start, bool), loss[start : stop + 1])
        own = places[start : stop + 1]
        own = np.where(own > 0, own - int(first) * marks.span, 0).astype(np.int32)
        pieces.append(
            Piece(example, own, page.images[first:last], captions[first:last], form != "comprehension")
        )
    return pieces


def count_split(sizes: np.ndarray, form: str, marks: Marks, *, slots: int, images: int) -> int:
    """How many of the documents of these sizes, see `page_sizes`, `pieces_of` cuts; of pairs, at most."""
    needed = sizes[:, 0] + sizes[:, 1] * marks.block(form) + 1  # bos and eos, less the shift
    return int(np.sum((needed > slots) | (sizes[:, 1] > images)))


def _laid_out(page: PageRecord, form: str, marks: Marks) -> tuple[np.ndarray, ...]:
    """Tokens, loss and places of a whole document, and where the tokens of each picture start."""
    texts = np.split(page.tokens, np.cumsum(page.lengths)[:-1])
    dream_start, dream_end, image_start, image_end = range(marks.dream_start, marks.dream_start + 4)
    drawn, seen = form != "comprehension", form != "creation"
    ids, loss, places, starts = [marks.bos], [False], [0], []
    shown = 0
    for number in range(len(texts) + 1):
        while shown < len(page.positions) and page.positions[shown] == number:
            starts.append(len(ids))
            at = 1 + shown * marks.span
            for there, begin, end, first, count in (
                (drawn, dream_start, dream_end, at + marks.patches, marks.queries),
                (seen, image_start, image_end, at, marks.patches),
            ):
                if there:
                    ids += [begin, *[0] * count, end]
                    places += [0, *range(first, first + count), 0]
                    loss += [begin == dream_start and form == "joint", *[False] * (count + 1)]
            shown += 1
        if number < len(texts):
            ids += texts[number].tolist()
            places += [0] * len(texts[number])
            loss += [bool(page.learned[number]) and form != "creation"] * len(texts[number])
    ids, places, loss = [*ids, marks.eos], [*places, 0], [*loss, form != "creation"]
    return (
        np.asarray(ids, np.int32),
        np.asarray(loss, bool),
        np.asarray(places, np.int32),
        np.asarray(starts, np.int64),
    )


def _next_cut(at: int, end: int, starts: np.ndarray, ends: np.ndarray, slots: int, images: int) -> int:
    """Where the piece ends that begins at slot `at` of a document of `end` slots."""
    first = np.searchsorted(starts, at)
    # The picture that does not fit any more by number; nothing of it may be taken.
    limit = int(starts[first + images]) if first + images < len(starts) else end
    limit = min(limit, at + slots, end)
    if limit == end:
        return end
    for borders in (ends, starts):
        before = borders[(borders > at) & (borders <= limit)]
        if len(before):
            return int(before[-1])
    return limit
