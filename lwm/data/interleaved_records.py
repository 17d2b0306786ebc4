"""The fourth TFDS builder: documents of text and pictures, one data set for each source.

DATA/interleaved_pages/<source>/1.0.0         written and read without TensorFlow, like those of `datasets`
DATA/interleaved_pages/<source>/<split>.npy   int32 [documents, 2]: text tokens and pictures of each
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from lwm.data import datasets
from lwm.data.recipes import RecipeBuilder, Recipes, dataset_info, write
from lwm.data.workers import Workers
from lwm.errors import UserError

MADE_BY = "python -m lwm.prepare --pages"
_VERSION = "1.0.0"
# What NumPy writes ahead of int32 [documents, 2]. Its own reader takes a header for a piece of Python.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<i4', 'fortran_order': False, 'shape': \((\d{1,15}), 2\), \} *\n",
    re.DOTALL,
)


class PageRecord(NamedTuple):
    """A document.

    name: "pages.jsonl:3" · tokens: int32 [t], all texts behind each other · lengths: int32 [texts] · learned:
    bool [texts] · images: uint8 [k, R, R, 3], in order · positions: int32 [k], numbers of the texts that they
    stand before, never falling.
    """

    name: str
    tokens: np.ndarray
    lengths: np.ndarray
    learned: np.ndarray
    images: np.ndarray
    positions: np.ndarray


class InterleavedPages(RecipeBuilder):
    """Documents of text and pictures of one source; see `PageRecord` for the fields."""

    VERSION = tfds.core.Version(_VERSION)

    def __init__(self, *, resolution: int, **keywords):
        self._resolution = resolution
        super().__init__(**keywords)

    def _info(self):
        def array(dtype, *shape):
            return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")

        features = {name: array(np.int32) for name in ("tokens", "lengths", "positions")}
        features |= {"name": tfds.features.Text(), "learned": array(np.uint8)}
        features["images"] = array(np.uint8, self._resolution, self._resolution, 3)
        return dataset_info(self, features)


def write_pages(
    data_dir: epath.PathLike,
    source: str,
    recipes: Recipes,
    *,
    resolution: int,
    workers: Workers | None = None,
) -> dict[str, dict[str, int]]:
    """Writes the documents of a source by split, and counts them: {split: {documents, tokens, images}}.

    Recipes make the records that `record_of` returns. A split without a document is left out.
    """
    config = tfds.core.BuilderConfig(name=source)
    write(data_dir, InterleavedPages, recipes, workers, resolution=resolution, config=config)
    counts = {}
    for split in recipes:
        found = [(len(page.tokens), len(page.images)) for page in pages(data_dir, source, split)]
        with _sizes_path(data_dir, source, split).open("wb") as file:
            np.save(file, np.asarray(found, np.int32).reshape(-1, 2))
        tokens, images = np.sum(found, axis=0).tolist()
        counts[split] = {"documents": len(found), "tokens": tokens, "images": images}
    return counts


def record_of(page: PageRecord) -> dict:
    """Returns the TFDS record of a document."""
    return page._asdict() | {"learned": page.learned.astype(np.uint8)}


def pages(data_dir: epath.PathLike, source: str, split: str) -> Sequence[PageRecord]:
    """Returns the documents of a split by random access. Raises UserError if there is no such source."""
    return datasets.RecordSource(_folder(data_dir, source) / _VERSION, split, _decode, MADE_BY)


def page_sizes(data_dir: epath.PathLike, source: str, split: str) -> np.ndarray:
    """Returns int32 [documents, 2]: text tokens and pictures of each document of a split, in their order.

    Raises UserError if there is no such file, or one that `write_pages` did not write.
    """
    path = _sizes_path(data_dir, source, split)
    if not path.exists():
        raise UserError(f"data: {path} does not exist; make it by {MADE_BY}")
    content = path.read_bytes()
    header = _HEADER.match(content)
    if header is None or len(content) - header.end() != 8 * int(header[1]):
        raise UserError(f"data: {path} is damaged; make the folder again by {MADE_BY}")
    return np.frombuffer(content, "<i4", offset=header.end()).reshape(-1, 2)


def _decode(record: dict) -> PageRecord:
    fields = {"name": record["name"].decode("utf-8"), "learned": record["learned"].astype(bool)}
    return PageRecord(**(record | fields))


def _folder(data_dir, source) -> epath.Path:
    return epath.Path(data_dir) / "interleaved_pages" / source


def _sizes_path(data_dir, source, split) -> epath.Path:
    return _folder(data_dir, source) / f"{split}.npy"
