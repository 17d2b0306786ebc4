"""Data sets of TFDS in ArrayRecord files: the container, the records in it, and the JSON beside it."""

import functools
import tempfile
from pathlib import Path

import numpy as np
from array_record.python import array_record_module

from lwm.data import datasets, interleaved_records, task_records
from lwm.data.recipes import Recipe, Recipes
from tests.fuzz.target import Target

_SPLIT = "train"


def _document(at: int) -> datasets.Document:
    return datasets.Document(
        ("caption", "vision"),
        np.arange(at, 2 * at + 3, dtype=np.int32),
        np.asarray([at, 3], np.int32),
        np.asarray([False, True]),
        ("[caption],vision",),
        7,
    )


def _made(records: list[dict]) -> Recipes:
    return {_SPLIT: Recipe(records, lambda record: [record])}


@functools.cache
def _written() -> dict[str, bytes]:
    """The files of a data folder with one data set of each kind."""
    page = interleaved_records.PageRecord(
        "a:1",
        np.arange(3, dtype=np.int32),
        np.asarray([1, 2], np.int32),
        np.asarray([True, False]),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.asarray([1], np.int32),
    )
    sample = task_records.Record("a", "b", waveform=np.ones(3, np.int16), rate=100, target="x")
    frames = [{"image": np.zeros((2, 2, 3), np.uint8), "video": "a.mp4", "index": at} for at in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        documents = [datasets.record_of(_document(at)) for at in range(2)]
        datasets.write_documents(folder, "a", _made(documents))
        datasets.write_frames(folder, _made(frames), resolution=2)
        interleaved_records.write_pages(
            folder, "a", _made([interleaved_records.record_of(page)]), resolution=2
        )
        task_records.write_task(folder, "a", {_SPLIT: [sample]})
        paths = [path for path in Path(folder).rglob("*") if path.is_file() and "partial" not in path.parts]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def _lay(folder: Path) -> None:
    for name, content in _written().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# Of each kind of data set: its folder, and what its files begin with.
_FOLDERS = {
    "documents": ("documents/a/1.0.0", "documents"),
    "frames": ("frames/1.0.0", "frames"),
    "interleaved_pages": ("interleaved_pages/a/1.0.0", "interleaved_pages"),
    "task_records": ("task_records/a/1.0.0", "task_records"),
}


def _file(kind: str, part: str) -> str:
    folder, name = _FOLDERS[kind]
    return f"{folder}/{part}" if part else f"{folder}/{name}-{_SPLIT}.array_record-00000-of-00001"


def _read(kind: str, folder: Path) -> None:
    if kind == "documents":
        source = datasets.documents(folder, "a", _SPLIT)
        for document in source.__getitems__(list(range(len(source)))):
            document.parts()
    elif kind == "frames":
        source = datasets.frames(folder, _SPLIT)
        source.__getitems__(list(range(len(source))))
    elif kind == "interleaved_pages":
        list(interleaved_records.pages(folder, "a", _SPLIT))
    else:
        list(task_records.task_records(folder, "a", _SPLIT))


def _target(name: str, kind: str, part: str, share: int, **more) -> Target:
    """Of one file of a data set."""
    file = _file(kind, part)
    return Target(
        name,
        file,
        lambda: [_records(kind)[0]] if more else [_written()[file]],
        lambda path: _read(kind, next(one for one in path.parents if one.name == "inside")),
        share,
        lay=_lay,
        **more,
    )


@functools.cache
def _records(kind: str) -> list[bytes]:
    """The records of a data set as they are in its file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(_written()[_file(kind, "")])
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.read_all()
        reader.close()
    return found


def _container(content: bytes) -> bytes:
    """A whole file with two such records."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        for _ in range(2):
            writer.write(content)
        writer.close()
        return path.read_bytes()


TARGETS = (
    _target("array_record", "documents", "", 2),
    _target("frame_records", "frames", "", 2, wrap=_container),
    _target("document_records", "documents", "", 2, wrap=_container),
    _target("page_records", "interleaved_pages", "", 2, wrap=_container),
    _target("task_records", "task_records", "", 2, wrap=_container),
    _target("features_json", "documents", "features.json", 2),
    _target("dataset_info", "documents", "dataset_info.json", 2),
)
