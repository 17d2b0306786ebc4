"""What a user's folder holds: an Item for each document to come, a reason for each thing that is broken.

Videos, images, .txt and .md files (a document each) and .jsonl files, a document a line:

    {"video": "a.mp4", "caption": "…"}
    {"image": "b.png", "question": "…", "answer": "…"}       put into LWM's chat template
    {"question": "…", "answer": "…"}
    {"text": "…"}
    {"video": "a.mp4", "title": "…", "fields": "[vision],title"}

Paths are relative to the .jsonl file. "fields" names any keys of the line in the syntax of `fields.py`; of a
list of them each visit takes one. Every line may have a "source", its name in a mixture, and a "split", train
or heldout. Videos and images without a line are documents without text.
"""

import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lwm import bounds, json_text
from lwm.data import fields as syntax
from lwm.data.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from lwm.errors import one_line

TEXT_SUFFIXES = frozenset({".txt", ".md"})
JSON_SUFFIXES = frozenset({".jsonl"})
SPLITS = ("train", "heldout")


class BrokenItem(Exception):
    """A file or line that cannot become a document; the text says why in a few words, in one line."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


class Item(NamedTuple):
    """A document to come. Its text stays in the file until `read_parts`.

    path: its file, relative to the folder · source · fields · media: its video or image, relative to the
    folder, None for plain text · split: "train", "heldout" or None (to be decided) · line, offset: where it
    stands in a .jsonl file, as line number and byte; 0 elsewhere.
    """

    path: str
    source: str
    fields: tuple[str, ...]
    media: str | None = None
    split: str | None = None
    line: int = 0
    offset: int = 0

    @property
    def name(self) -> str:
        """ "plays/hamlet.md" or "captions.jsonl:3"."""
        return f"{self.path}:{self.line}" if self.line else self.path

    @property
    def has_vision(self) -> bool:
        return syntax.VISION in syntax.parts_of(self.fields)


class Inventory(NamedTuple):
    items: list[Item]
    broken: list[tuple[str, str]]
    fingerprint: str


def scan(folder: str) -> Inventory:
    """Walks `folder` (links followed, hidden names skipped) and checks all but the pictures themselves.

    The fingerprint stands for the names and sizes of all usable files.
    """
    items, broken, media, digest = [], [], [], hashlib.sha256()
    for name in _files(folder):
        path, suffix = os.path.join(folder, name), Path(name).suffix.lower()
        if suffix not in TEXT_SUFFIXES | JSON_SUFFIXES | VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            continue
        if (shown := name.encode(errors="backslashreplace").decode()) != name:
            broken.append((shown, "has a name that is no UTF-8; rename it"))
            continue
        try:
            digest.update(f"{name} {os.path.getsize(path)}\n".encode())
            if suffix in TEXT_SUFFIXES:
                item = Item(name, "text", ("text",))
                read_parts(folder, item)
                items.append(item)
            elif suffix in JSON_SUFFIXES:
                for number, offset, line in _lines(path):
                    try:
                        items.append(_item_of_line(folder, name, number, offset, line))
                    except BrokenItem as error:
                        broken.append((f"{name}:{number}", str(error)))
            else:
                media.append(name)
        except (BrokenItem, OSError) as error:
            broken.append((name, error.strerror if isinstance(error, OSError) else str(error)))
    told = {item.media for item in items}
    items += [Item(name, media_kind(name), (syntax.VISION,), name) for name in media if name not in told]
    return Inventory(_one_split_each(items, broken), broken, digest.hexdigest()[:16])


def media_kind(name: str) -> str:
    """Returns "image" or "video" by the suffix of a file name."""
    return "image" if Path(name).suffix.lower() in IMAGE_SUFFIXES else "video"


def read_parts(folder: str, item: Item) -> dict[str, str]:
    """Returns the text parts of an item by name, chat template applied; BrokenItem if they cannot be read."""
    if item.path == item.media:
        return {}
    with open(os.path.join(folder, item.path), "rb") as file:
        file.seek(item.offset)
        raw = file.readline(bounds.JSON + 1) if item.line else file.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenItem(f"is not UTF-8 text (byte {error.start})") from None
    if item.line:
        return _parts_of_line(_parse(text))[0]
    if not text.strip():
        raise BrokenItem("is empty")
    return {"text": text}


def _files(folder: str) -> Iterator[str]:
    """All files under `folder` as sorted names with forward slashes."""
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [] if real in seen else sorted(f for f in folders if not f.startswith("."))
        if real in seen:
            continue
        seen.add(real)
        found += [os.path.relpath(os.path.join(root, n), folder) for n in names if not n.startswith(".")]
    return iter(sorted(name.replace(os.sep, "/") for name in found))


def _lines(path: str) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and content of each line that is not blank."""
    with open(path, "rb") as file:
        for number in itertools.count(1):
            offset = file.tell()
            line = rest = file.readline(bounds.JSON + 1)
            if not line:
                return
            if line.strip():
                yield number, offset, line
            while len(rest) > bounds.JSON and not rest.endswith(b"\n"):  # nobody can hold the whole of it
                rest = file.readline(bounds.JSON + 1)


def _parse(text: str) -> dict:
    try:
        line = json_text.loads(text)
    except ValueError as error:
        raise BrokenItem(f"is not JSON ({error})") from None
    if not isinstance(line, dict):
        raise BrokenItem("is not a JSON object")
    return line


def _parts_of_line(line: dict) -> tuple[dict[str, str], tuple[str, ...], str]:
    """Returns text parts, fields and default source of a parsed line."""
    has_vision = "video" in line or "image" in line
    kind = "video" if "video" in line else "image" if "image" in line else "text"
    asked = line.get("fields")
    if asked is not None:
        fields = tuple(asked) if isinstance(asked, list) else (asked,)
        if not fields or not all(isinstance(one, str) for one in fields):
            raise BrokenItem(f"fields {asked!r} is neither text nor a list of texts")
        try:
            names = [name for name in syntax.parts_of(fields) if name != syntax.VISION]
            with_vision = syntax.VISION in syntax.parts_of(fields)
        except ValueError as error:
            raise BrokenItem(str(error)) from None
        if with_vision and not has_vision:
            raise BrokenItem("fields name vision, but the line has neither video nor image")
        source = "chat" if {"question", "answer"} & set(names) else kind
        return {name: _text(line, name) for name in names}, fields, source
    if "question" in line or "answer" in line:
        parts = syntax.chat_parts(_text(line, "question"), _text(line, "answer"), vision=has_vision)
        return parts, syntax.VISION_CHAT_FIELDS if has_vision else syntax.CHAT_FIELDS, "chat"
    if has_vision and "caption" in line:
        return {"caption": _text(line, "caption")}, syntax.CAPTION_FIELDS, kind
    if has_vision:
        return {}, (syntax.VISION,), kind
    if "text" in line:
        return {"text": _text(line, "text")}, ("text",), kind
    raise BrokenItem("has none of text, video, image, question and answer")


def _text(line: dict, name: str) -> str:
    value = line.get(name)
    if not isinstance(value, str):
        raise BrokenItem(f"has no text for {name!r}" if value is None else f"{name} {value!r} is not text")
    if not value.strip():
        raise BrokenItem(f"{name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BrokenItem(f"{name} holds half of a surrogate pair") from None
    return value


def _item_of_line(folder: str, path: str, number: int, offset: int, raw: bytes) -> Item:
    try:
        line = _parse(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BrokenItem(f"is not UTF-8 text (byte {error.start})") from None
    _, fields, source = _parts_of_line(line)
    source, split = line.get("source", source), line.get("split")
    if not isinstance(source, str) or not re.fullmatch(r"[a-z0-9_]+", source):
        raise BrokenItem(f"source {source!r} is not made of small letters, digits and _")
    if split not in (None, *SPLITS):
        raise BrokenItem(f"split {split!r} is neither train nor heldout")
    if "video" in line and "image" in line:
        raise BrokenItem("has both a video and an image")
    media = None
    if "video" in line or "image" in line:
        value = line.get("video", line.get("image"))
        if not isinstance(value, str):
            raise BrokenItem(f"file name {value!r} is not text")
        media = os.path.normpath(os.path.join(os.path.dirname(path), value)).replace(os.sep, "/")
        if os.path.isabs(media) or media.split("/")[0] == "..":
            raise BrokenItem(f"{value} lies outside of the folder; put it there")
        if Path(media).suffix.lower() not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            raise BrokenItem(f"{value} is neither a video nor an image by its suffix")
        if not os.path.isfile(os.path.join(folder, media)):
            raise BrokenItem(f"{value} does not exist")
    return Item(path, source, fields, media, split, number, offset)


def _one_split_each(items: list[Item], broken: list[tuple[str, str]]) -> list[Item]:
    """Drops lines that put a media file into a split other than the first line about it does."""
    first, kept = {}, []
    for item in items:
        holder = first.setdefault(item.media, item) if item.media else item
        if holder.split == item.split:
            kept.append(item)
        else:
            broken.append((item.name, f"split {item.split!r} of {item.media} is not that of {holder.name}"))
    return kept
