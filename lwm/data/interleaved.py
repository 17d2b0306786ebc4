"""Documents of text and pictures in any order, from a manifest: JSON lines like those of MMC4 (2304.06939).

    {"texts": ["A cow.", " A goat."], "images": [{"path": "cow.png", "position": 1, "similarity": 0.31}]}

A picture stands before the text of number `position`, from 0; one behind all of them has their number. Texts
follow each other as they are: what should stand between two of them, a space or a new line, belongs to one.
`python -m lwm.prepare --pages` makes data of all .jsonl files of a folder.

    texts       list of texts, not all of them empty
    images      list of pictures; path: relative to the manifest; similarity to its text: a finite number,
                optional; none: []
    learned     list of true and false, for each text whether it is learned; none: all are
    source      small letters, digits and _: its name in a mixture; none: the name of the manifest
    split       "train" or "heldout"; none: that of its group, or else a hash says so
    group       lines of one group are in one split, of whatever manifest; none: each line by itself
"""

import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lwm import json_text
from lwm.data.inputs import SPLITS
from lwm.errors import UserError, check_utf8

_FIELDS = ("texts", "images", "learned", "source", "split", "group")
_OF_IMAGES = ("path", "position", "similarity")


class Shown(NamedTuple):
    """A picture of a page. path: of its file · position: number of the text that it stands before · name: of
    the field that tells of it, "pages.jsonl:3: images[0].path".
    """

    path: Path
    position: int
    name: str


class Page(NamedTuple):
    """A document to come. name: "pages.jsonl:3" · split: None = to be decided · the rest as in a manifest,
    pictures in the order of their places.
    """

    name: str
    source: str
    group: str
    split: str | None
    texts: tuple[str, ...]
    learned: tuple[bool, ...]
    images: tuple[Shown, ...]


class Pages(NamedTuple):
    """pages: in order · dissimilar: pictures left out as too unlike their texts."""

    pages: list[Page]
    dissimilar: int


def manifests(folder: str) -> list[Path]:
    """All .jsonl files of a folder. Raises UserError if there is none, or a name that is not UTF-8."""
    found = sorted(path for path in Path(folder).glob("*.jsonl") if path.is_file())
    if not found:
        raise UserError(f"input: {folder} has no .jsonl file; put a manifest there")
    for path in found:
        check_utf8("input", path.name)
    return found


def read_pages(folder: str, *, min_similarity: float | None, broken: Callable[[UserError], None]) -> Pages:
    """Reads all .jsonl files of a folder; pictures themselves are not opened.

    Args:
      min_similarity: pictures that are said to be less similar to their text are left out; None: none are.
      broken: is called with a UserError that names file, line and field of what is wrong; if it returns, the
        picture is left out, or else the line.

    Raises:
      UserError: there is no manifest.
    """
    pages, dissimilar, splits = [], 0, {}
    for manifest in manifests(folder):
        for number, raw in enumerate(manifest.read_bytes().splitlines(), start=1):
            if not raw.strip():
                continue
            line = _Line(manifest, f"{manifest.name}:{number}", broken)
            try:
                page, left_out = line.page(raw, min_similarity)
                line.check_split(page, splits)
            except UserError as error:
                broken(error)
                continue
            pages.append(page)
            dissimilar += left_out
    return Pages([page._replace(split=splits.get(page.group)) for page in pages], dissimilar)


class _Line:
    """A line of a manifest, with its name for messages."""

    def __init__(self, manifest: Path, name: str, broken: Callable[[UserError], None]):
        self._manifest, self._name, self._broken = manifest, name, broken

    def check_split(self, page: Page, splits: dict[str, str]) -> None:
        """Notes the split of the page's group. Raises UserError if another line of it has another."""
        if page.split and splits.setdefault(page.group, page.split) != page.split:
            reason = f"{page.split!r}, but other lines of group {page.group!r} are in {splits[page.group]!r}"
            raise self._error("split", reason, "give them one split")

    def page(self, raw: bytes, min_similarity: float | None) -> tuple[Page, int]:
        """The page, and how many pictures are not similar enough. Raises UserError if it is none."""
        try:
            line = json_text.loads(raw)
        except ValueError as error:
            raise self._error("line", f"is not JSON ({error})", "write one object a line") from None
        if not isinstance(line, dict):
            raise self._error("line", f"{line!r} is no object", 'write {"texts": [...], "images": [...]}')
        for field in line:
            if field not in _FIELDS:
                raise self._error(field, "is not known", f"known are {', '.join(_FIELDS)}")
        texts, learned = self._texts(line)
        source = line.get("source", re.sub(r"[^a-z0-9_]", "_", self._manifest.stem.lower()))
        if not isinstance(source, str) or not re.fullmatch(r"[a-z0-9_]+", source):
            raise self._error("source", f"{source!r} is no name", "use small letters, digits and _")
        split, group = line.get("split"), line.get("group", self._name)
        if split not in (None, *SPLITS):
            raise self._error("split", f"{split!r} is no split", f"use {' or '.join(SPLITS)}")
        if not isinstance(group, str):
            raise self._error("group", f"{group!r} is no text", "give a name, or leave it out")
        images, dissimilar = [], 0
        for field, image in self._images(line):
            shown, similarity = self._shown(field, image, len(texts))
            if None not in (similarity, min_similarity) and similarity < min_similarity:
                dissimilar += 1
            elif not os.path.isfile(shown.path):
                reason = f"{image['path']!r} does not exist"
                self._broken(self._error(f"{field}.path", reason, "mend it or pass --skip_broken"))
            else:
                images.append(shown)
        images.sort(key=lambda shown: shown.position)  # stable: at one place in the order of the line
        return Page(self._name, source, group, split, texts, learned, tuple(images)), dissimilar

    def _texts(self, line: dict) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        texts = line.get("texts")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._error("texts", f"{texts!r} is no list of texts", 'write for example ["A cow."]')
        if not any(text.strip() for text in texts):
            raise self._error("texts", f"{texts!r} has no text at all", "give some, or remove the line")
        learned = line.get("learned", [True] * len(texts))
        if not isinstance(learned, list) or [type(one) for one in learned] != [bool] * len(texts):
            reason = f"{learned!r} is no list of true and false for {len(texts)} texts"
            raise self._error("learned", reason, "give one for each, or leave it out")
        return tuple(texts), tuple(learned)

    def _images(self, line: dict) -> Iterator[tuple[str, dict]]:
        images = line.get("images", [])
        if not isinstance(images, list):
            raise self._error("images", f"{images!r} is no list", 'write for example [{"path": "a.png", …}]')
        for number, image in enumerate(images):
            field = f"images[{number}]"
            if not isinstance(image, dict) or not {"path", "position"} <= set(image) <= set(_OF_IMAGES):
                raise self._error(
                    field, f"{image!r} is no picture", "give path, position and similarity, which is optional"
                )
            yield field, image

    def _shown(self, field: str, image: dict, texts: int) -> tuple[Shown, float | None]:
        path, position, similarity = (image.get(name) for name in _OF_IMAGES)
        if not isinstance(path, str):
            raise self._error(f"{field}.path", f"{path!r} is no text", "give the name of a file")
        if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == "..":
            raise self._error(f"{field}.path", f"{path!r} lies outside of the folder", "put it there")
        if type(position) is not int or not 0 <= position <= texts:
            reason = f"{position!r} is outside of the {texts} texts"
            raise self._error(f"{field}.position", reason, f"use 0 to {texts}")
        if similarity is not None and type(similarity) not in (int, float):
            raise self._error(f"{field}.similarity", f"{similarity!r} is no number", "mend or remove it")
        # Whole numbers may be larger than any float, which `math.isfinite` does not take.
        if similarity is not None and not -math.inf < similarity < math.inf:
            reason = f"{similarity!r} is no finite number"
            raise self._error(f"{field}.similarity", reason, "mend or remove it")
        name = f"{self._name}: {field}.path"
        return Shown(self._manifest.parent / path, position, name), similarity

    def _error(self, field: str, reason: str, fix: str) -> UserError:
        return UserError(f"{self._name}: {field}: {reason}; {fix}")
