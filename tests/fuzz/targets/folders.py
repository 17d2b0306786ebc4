"""What a person puts into a folder to be prepared, and the JSON at the top of a prepared one."""

import json
from pathlib import Path

from PIL import Image

from lwm.data import clip_frames, inputs, manifest
from lwm.data.interleaved import read_pages
from lwm.data.streams import Marks
from lwm.data.task_records import load_tasks
from lwm.data.task_sources.reading import stop
from lwm.errors import UserError
from tests.fuzz.target import Target

_LINES = (
    {"image": "a.png", "caption": "A cat.", "source": "cats", "split": "train"},
    {"image": "a.png", "question": "What?", "answer": "A cat."},
    {"text": "Once."},
    {"image": "b/c.png", "title": "x", "fields": ["[vision],title", "title"]},
)
_PAGES = (
    {"texts": ["A cow.", " A goat."], "images": [{"path": "a.png", "position": 1, "similarity": 0.31}]},
    {
        "texts": ["", "x"],
        "images": [],
        "learned": [True, False],
        "source": "y",
        "split": "heldout",
        "group": "g",
    },
)
_MANIFEST = {
    "tokenizer": "bytes",
    "vocab_size": 259,
    "bos": 1,
    "eos": 2,
    "vision_start": [63, 64],
    "vision_end": [65],
    "resolution": 8,
    "fps": 4.0,
    "codes": 16,
    "codes_per_frame": 4,
    "eof": 16,
    "eov": 17,
    "vqgan": "/a/b",
    "sources": {"text": {"train": {"documents": 3, "tokens": 9, "bytes": 9}, "heldout": {"documents": 0}}},
    "longest_text": {"image": {"tokens": 7, "name": "a.jsonl:3"}},
    "frames": {"train": 3, "heldout": 1},
    "broken": [["a.png", "is empty"]],
}
_NO_VISION = dict.fromkeys(("fps", "codes", "codes_per_frame", "eof", "eov", "vqgan"))
_SETTINGS = {"input": "/a", "files": "0a", "tokenizer": "train", "resolution": 8, "seed": 0, "vqgan": None}
_RECORD = {
    "settings": _SETTINGS,
    "media": {"a.mp4": {"train": 9, "heldout": 8}, "a.mp4#1": {"train": 9}},
    "broken": [],
}
_LENGTHS = {"median": 1, "most": 2, "longest": 3}
_TASKS = {
    "tasks": {
        "a": {"kind": "classify", "train": 3, "heldout": 1, "dropped": {}}
        | {name: _LENGTHS for name in ("source", "target", "samples")}
    },
    "classes": ["cat", "dog"],
    "vocab_size": 300,
    "eos": 2,
    "resolution": 8,
    "rate": 100,
    "max_samples": 200,
    "damaged": [],
    "python": "3.11.7",
    "settings": {"seed": 0},
}


def _json_lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _lay_pictures(folder: Path) -> None:
    (folder / "in" / "b").mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b/c.png"):
        Image.new("RGB", (4, 4)).save(folder / "in" / name)


def _scan(path: Path) -> None:
    found = inputs.scan(str(path.parent))
    _short([f"{name} {reason}" for name, reason in found.broken])
    for item in found.items:
        inputs.read_parts(str(path.parent), item)
        _inside(path.parent / (item.media or item.path), path.parent)


def _pages(path: Path) -> None:
    broken: list[str] = []
    for page in read_pages(
        str(path.parent), min_similarity=0.0, broken=lambda e: broken.append(str(e))
    ).pages:
        for text in page.texts:
            text.encode("utf-8")
        for image in page.images:
            _inside(image.path, path.parent)
    _short(broken)
    read_pages(str(path.parent), min_similarity=0.0, broken=stop)


def _short(reasons: list[str]) -> None:
    """What is told of broken lines is one line each, as in a refusal."""
    assert all(len(reason.splitlines()) == 1 and len(reason) < 2000 for reason in reasons), reasons[0][:100]


def _inside(path: Path, folder: Path) -> None:
    assert path.resolve().is_relative_to(folder.resolve()), f"{path} is read"


def _manifest(path: Path) -> None:
    found = manifest.load_manifest(path.parent)
    if not found.get("sources"):
        return  # a folder of another kind
    marks = Marks.of(found)
    for source, own in found.get("sources", {}).items():
        assert isinstance(source, str) and own.get("train", {}).get("documents", 0) >= 0
        longest = found.get("longest_text", {}).get(source)
        assert not longest or marks.slots_around_frames(longest["tokens"]) + marks.tokens_per_frame
    assert found["vocab_size"] + (found["codes_per_frame"] or 0) > 0


def _record(path: Path) -> None:
    manifest.open_record(path.parent, dict(_SETTINGS))
    clip_frames.scenes(path.parent, "train")


def _tasks(path: Path) -> None:
    found = load_tasks(path.parent)
    for own in found["tasks"].values():
        assert own["train"] + own["heldout"] + own["target"].get("longest", 0) >= 0 and own["kind"]
    assert len(found["classes"]) + found["vocab_size"] + found["max_samples"] + found["rate"] > 0


def _finished(path: Path) -> None:
    settings = {"seed": 0}
    try:
        manifest.finished(path.parent, "tasks.json", load_tasks, settings)
    except UserError:
        _tasks(path)
        raise


TARGETS = (
    Target("input_lines", "in/x.jsonl", lambda: [_json_lines(_LINES)], _scan, 15, lay=_lay_pictures),
    Target("input_text", "in/x.md", lambda: ["# A caf\u00e9\n".encode()], _scan, 5, lay=_lay_pictures),
    Target("pages", "in/x.jsonl", lambda: [_json_lines(_PAGES)], _pages, 15, lay=_lay_pictures),
    Target(
        "data_json",
        "data.json",
        lambda: [json.dumps(one).encode() for one in (_MANIFEST, _MANIFEST | _NO_VISION)],
        _manifest,
        15,
    ),
    Target("prepare_json", "prepare.json", lambda: [json.dumps(_RECORD).encode()], _record, 15),
    Target("tasks_json", "tasks.json", lambda: [json.dumps(_TASKS).encode()], _finished, 15),
)
