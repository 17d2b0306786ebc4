"""What documents of text and pictures can be asked: questions with answers, and pictures to be drawn.

A question stands behind a picture and is not learned, its answer is the last text; a picture behind all texts
of its document is a wish. Documents of the form "pairs" are both, with the question "".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lwm.data.interleaved_records import PageRecord, pages
from lwm.data.tokenizers import Tokenizer

CLOSED = 64  # answers in training up to which a question is one of choice


class Question(NamedTuple):
    """asked: its words · answer: what is right · page: the document, pictures where they are seen."""

    asked: str
    answer: str
    page: PageRecord


class Wish(NamedTuple):
    """text: ids ahead of the picture · picture: uint8 [R, R, 3], what the document has there."""

    text: list[int]
    picture: np.ndarray


class Choice(NamedTuple):
    """A closed question. answers: in the order of their numbers · of: their numbers by `picture_key`."""

    answers: list[str]
    of: dict[bytes, int]


def questions_of(records: Sequence[PageRecord], form: str, tokenizer: Tokenizer) -> Iterator[Question]:
    """Yields the questions of the documents of a source; only of forms in which pictures are but seen."""
    if form not in ("comprehension", "pairs"):
        return
    for page in _each(records):
        if form == "pairs":
            page = page._replace(positions=np.zeros_like(page.positions))
        last = len(page.lengths) - 1
        if len(page.images) and page.learned[last] and max(page.positions) <= last:
            texts = [tokenizer.decode(ids.tolist()) for ids in texts_of(page)]
            yield Question("".join(texts[:last]).strip(), texts[last].strip(), page)


def wishes_of(records: Sequence[PageRecord]) -> Iterator[Wish]:
    """Yields what is to be drawn: of documents with one picture, behind all texts."""
    for page in _each(records):
        if len(page.images) == 1 and page.positions[0] == len(page.lengths):
            yield Wish(page.tokens.tolist(), page.images[0])


def choices_of(data: str, known: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Choice]:
    """The closed questions of a data folder about single pictures; what they are numbered by is training.

    Args:
        known: {source: {split: …}}, as in data.json.
    """
    found: dict[str, Choice] = {}
    for split in ("train", "heldout"):
        for source in (source for source, splits in known.items() if split in splits):
            for one in questions_of(pages(data, source, split), "comprehension", tokenizer):
                if not one.asked or len(one.page.images) != 1:
                    continue
                choice = found.setdefault(one.asked, Choice([], {}))
                if split == "train" and one.answer not in choice.answers:
                    choice.answers.append(one.answer)
                if one.answer in choice.answers:
                    choice.of[picture_key(one.page.images[0])] = choice.answers.index(one.answer)
    return {asked: choice for asked, choice in found.items() if 1 < len(choice.answers) <= CLOSED}


def pictures_of(data: str, known: Mapping[str, Any], split: str) -> np.ndarray:
    """All pictures of a split, each once: uint8 [N, R, R, 3]."""
    found = {}
    for source in (source for source, splits in known.items() if split in splits):
        for page in _each(pages(data, source, split)):
            found |= {picture_key(image): image for image in page.images}
    return np.stack(list(found.values()))


def spread(items: Sequence, samples: int) -> list:
    """So many of the items at even distances, as neighbours are alike; 0 = all."""
    if not samples or samples >= len(items):
        return list(items)
    return [items[at * len(items) // samples] for at in range(samples)]


def picture_key(picture: np.ndarray) -> bytes:
    """What equal pictures have in common."""
    return picture.tobytes()


def texts_of(page: PageRecord) -> list[np.ndarray]:
    """Ids of each text of a document."""
    return np.split(page.tokens, np.cumsum(page.lengths)[:-1])


def _each(records: Sequence[PageRecord]) -> Iterator[PageRecord]:
    return (records[index] for index in range(len(records)))
