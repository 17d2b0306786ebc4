"""The two TFDS data sets of a data folder, written and read without TensorFlow.

    DATA/frames/1.0.0               Frames: one square picture each, the VQGAN's food
    DATA/documents/<source>/1.0.0   Documents: one document each, in parts, as ids

Records keep the order in which they were made (Grain shuffles when they are read); arrays are stored as raw
bytes, which reads ten times faster than TFDS's default. Both are readable from anywhere by
`tfds.builder_from_directory(folder).as_data_source(split)`.
"""

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from lwm import json_text
from lwm.data.recipes import RecipeBuilder, Recipes, dataset_info, write
from lwm.data.workers import Workers
from lwm.errors import UserError

_VERSION = "1.0.0"


class Frames(RecipeBuilder):
    """Frames: `image` uint8 [R, R, 3], `video` the name of its file, `index` its place there."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, *, resolution: int, **keywords):
        self._resolution = resolution
        super().__init__(**keywords)

    def _info(self):
        image = tfds.features.Tensor(
            shape=(self._resolution, self._resolution, 3), dtype=np.uint8, encoding="bytes"
        )
        features = {"image": image, "video": tfds.features.Text(), "index": np.int64}
        return dataset_info(self, features)


class Documents(RecipeBuilder):
    """Documents of one source, in parts; see `Document` for the fields."""

    VERSION = tfds.core.Version(_VERSION)

    def _info(self):
        features = {
            "names": tfds.features.Text(),
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
            "lengths": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding="bytes"),
            "vision": tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),
            "fields": tfds.features.Text(),
            "bytes": np.int64,
        }
        return dataset_info(self, features)


class Document(NamedTuple):
    """A document in parts.

    names: of the parts · tokens: int32 [T], all parts behind each other; text ids, or codes of whole frames
    each followed by eof (the last by eov) · lengths: int32 [parts] · vision: bool [parts] · fields: strings
    in the syntax of `fields.py`, of which each visit takes one · bytes: UTF-8 bytes of the text parts.
    """

    names: tuple[str, ...]
    tokens: np.ndarray
    lengths: np.ndarray
    vision: np.ndarray
    fields: tuple[str, ...]
    bytes: int

    def parts(self) -> dict[str, np.ndarray]:
        """Returns the ids of each part by name."""
        return dict(zip(self.names, np.split(self.tokens, np.cumsum(self.lengths)[:-1]), strict=True))


def write_frames(
    data_dir: epath.PathLike, recipes: Recipes, *, resolution: int, workers: Workers | None = None
) -> None:
    """Writes the Frames of `data_dir`: whole, or not at all. Splits without a record must be left out."""
    write(data_dir, Frames, recipes, workers, resolution=resolution)


def write_documents(
    data_dir: epath.PathLike, source: str, recipes: Recipes, *, workers: Workers | None = None
) -> None:
    """Writes the Documents of one source: whole, or not at all. Splits without a record must be left out."""
    write(data_dir, Documents, recipes, workers, config=tfds.core.BuilderConfig(name=source))


def record_of(document: Document) -> dict:
    """Returns the TFDS record of a document."""
    return document._asdict() | {
        "names": json.dumps(document.names),
        "fields": json.dumps(document.fields),
        "vision": np.asarray(document.vision, np.uint8),
    }


def frames_dir(data_dir: epath.PathLike) -> epath.Path:
    return epath.Path(data_dir) / "frames" / _VERSION


def documents_dir(data_dir: epath.PathLike, source: str) -> epath.Path:
    return epath.Path(data_dir) / "documents" / source / _VERSION


class RecordSource(Sequence):
    """A split of a data set with each record passed through `decode`; what Grain reads from.

    Raises UserError, which says who makes it, if `folder` does not exist or is damaged, here or when a record
    is read. A split that was not written is empty.
    """

    def __init__(
        self,
        folder: epath.Path,
        split: str,
        decode: Callable[[dict], object],
        made_by: str = "python -m lwm.prepare",
    ):
        self._name, self._decode, self._made_by = f"{folder}[{split}]", decode, made_by
        if not folder.exists():
            raise UserError(f"data: {folder} does not exist; make it by {made_by}")
        with self._whole():
            _check_names(folder)
            builder = tfds.builder_from_directory(folder)
            self._records = builder.as_data_source(split=split) if split in builder.info.splits else ()
            self._count = len(self._records)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int):
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} of {self._name}, which has {len(self)} records")
        with self._whole():
            return self._decode(self._records[int(index) % len(self)])

    def __getitems__(self, indices) -> list:
        with self._whole():
            return [self._decode(record) for record in self._records.__getitems__([int(i) for i in indices])]

    def __repr__(self) -> str:
        return self._name

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (UserError, OSError):
            raise
        except Exception as error:  # TFDS, protobuf and ArrayRecord raise what they stumble over
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"data: {self._name} is damaged ({reason}); make it again by {self._made_by}"
            ) from error


def _check_names(folder: epath.Path) -> None:
    """Names in the JSON of a data set, which TFDS takes for modules to import and for files to open."""
    features, info = (json_text.read(folder / name) for name in ("features.json", "dataset_info.json"))
    for name in _values(features, ("pythonClassName", "type")):
        if not isinstance(name, str) or not name.startswith("tensorflow_datasets.core.features."):
            raise ValueError(f"a feature of the class {name!r}")
    for name in _values(info, ("name", "filepathTemplate", "version")):
        if not isinstance(name, str) or not re.fullmatch(r"[\w{}.-]*", name) or ".." in name:
            raise ValueError(f"a file of the name {name!r}")


def _values(block: Any, names: Sequence[str]) -> Iterator[Any]:
    """What stands under these names, anywhere."""
    items = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    for name, value in items:
        if name in names and not isinstance(value, dict | list):
            yield value
        yield from _values(value, names)


def frames(data_dir: epath.PathLike, split: str) -> Sequence[np.ndarray]:
    """Returns the pictures of a split, uint8 [R, R, 3]; `__getitems__` reads many at once.

    Raises UserError if `data_dir` has no frames. A split without any is empty.
    """
    return RecordSource(frames_dir(data_dir), split, lambda record: record["image"])


def documents(data_dir: epath.PathLike, source: str, split: str) -> Sequence[Document]:
    """Returns the documents of a split by random access.

    Raises UserError if `data_dir` has no such source. A split without any document is empty.
    """
    return RecordSource(documents_dir(data_dir, source), split, _decode_document)


def _decode_document(record: dict) -> Document:
    document = Document(
        names=tuple(json_text.loads(record["names"])),
        tokens=record["tokens"],
        lengths=record["lengths"],
        vision=record["vision"].astype(bool),
        fields=tuple(json_text.loads(record["fields"])),
        bytes=int(record["bytes"]),
    )
    parts = {len(document.names), len(document.lengths), len(document.vision)}
    if (
        len(parts) > 1
        or min(document.lengths, default=0) < 0
        or document.lengths.sum() != len(document.tokens)
    ):
        raise ValueError(f"parts {document.names} do not add up to {len(document.tokens)} tokens")
    return document
