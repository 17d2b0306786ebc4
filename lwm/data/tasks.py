"""The eight tasks: what each reads, and which samples of all of them show or say the same thing."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from lwm.data.task_records import KINDS, Record
from lwm.data.task_sources.expressions import read_expressions
from lwm.data.task_sources.names import read_names
from lwm.data.task_sources.prompts import read_prompts
from lwm.data.task_sources.reading import Reading
from lwm.data.task_sources.stamps import read_stamps
from lwm.data.task_sources.verses import read_verses


class Task(NamedTuple):
    """kind: see `task_records`. read: its source. swapped: from the source's target to its source.
    prose: whether samples with the same words are the same item (two expressions with one tree are not).
    """

    kind: str
    read: Callable[[Reading], Iterator[Record]]
    swapped: bool = False
    prose: bool = True

    def view(self, record: Record) -> Record:
        """Returns what the task sees of a record of its source; the rest is empty."""
        if self.swapped:
            record = record._replace(source=record.target, target=record.source)
        empty = Record(record.key, record.base)
        seen = ("waveform", "rate", "target") if self.kind == "speech" else KINDS[self.kind]
        return empty._replace(**{field: getattr(record, field) for field in seen})


TASKS = {
    "stamp_class": Task("classify", read_stamps),
    "stamp_caption": Task("caption", read_stamps),
    "spanish_english": Task("translate", read_verses),
    "english_spanish": Task("translate", read_verses, swapped=True),
    "english_french": Task("translate", read_names),
    "french_english": Task("translate", read_names, swapped=True),
    "speech": Task("speech", read_prompts),
    "parsing": Task("translate", read_expressions, prose=False),
}

_NO_WORD = re.compile(r"[\W_]+")
_ARTICLE = re.compile(r"^(an?|the) ")


def bases(records: Iterable[tuple[Record, bool]]) -> dict[str, str]:
    """Returns for the base of each record the one that stands for all that share words with it.

    Two items are tied if a text of one is a text of the other: two stamps with one caption, a stamp and an
    emoji of one name, a verse that is said twice. Ties reach on: all that hang together get the first of
    their names. Case, punctuation and a leading English article do not count.

    records: with whether their words count.
    """
    parent: dict[str, str] = {}

    def root(item: str) -> str:
        while parent.setdefault(item, item) != item:
            parent[item] = item = parent[parent[item]]
        return item

    for record, prose in records:
        mine = root(record.base)
        for text in (record.source, record.target) if prose else ():
            if said := words(text):
                one, other = sorted((mine, root(f"\uffff{said}")))  # behind every name
                parent[other] = mine = one
    return {item: root(item) for item in list(parent) if not item.startswith("\uffff")}


def words(text: str) -> str:
    """Returns what two texts have in common that say the same."""
    return _ARTICLE.sub("", _NO_WORD.sub(" ", text.casefold()).strip())
