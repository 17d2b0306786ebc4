"""How records are made and written, in this process or on Apache Beam: the same files either way.

A `Recipe` says what the records of a split are made of and how. One process goes through it in order; with
`Workers` its items go to Beam, where each is made wherever there is room. What a record says depends on its
item alone, and its key says in which shard it is, and where.
"""

import contextlib
import io
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.proto import tf_example_pb2

from lwm.data.workers import Workers

_SHARDS = 1024  # TFDS makes 1, 2, 4, … or 1024 shards of a split below 900 GiB


class Recipe(NamedTuple):
    """How the records of a split are made, in order.

    items: what they are made of · make: an item -> its records; Beam sends it to workers, so it is a function
    of a module, or a `functools.partial` of one, and knows nothing of other items · counts: records of each
    item; None = one · shown: passes the items on, one process shows by it how far it is.
    """

    items: Sequence
    make: Callable[[Any], Iterable[dict]]
    counts: Sequence[int] | None = None
    shown: Callable[[Sequence], Iterable] = iter

    def records(self) -> Iterator[dict]:
        """Makes the records here, one after the other."""
        return itertools.chain.from_iterable(map(self.make, self.shown(self.items)))


Recipes = dict[str, Recipe]  # by split


class RecipeBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder of records that recipes make."""

    def __init__(self, *, recipes: Recipes, workers: Workers | None, **keywords):
        self._recipes, self._workers = recipes, workers
        super().__init__(**keywords)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(recipe) for split, recipe in self._recipes.items()}

    def _generate_examples(self, recipe):
        return examples(recipe, self._workers)

    def _example_writer(self):
        return SortingWriter(self.info.file_format)


class SortingWriter(tfds.core.ExampleWriter):
    """Writes the features of each record by their names: else their order changes from process to process."""

    def write(self, path, examples):
        return super().write(path, ((key, _sorted(record)) for key, record in examples))


def dataset_info(builder: tfds.core.DatasetBuilder, features: dict) -> tfds.core.DatasetInfo:
    """Returns what a builder says of itself: its docstring, its features, records in the order made."""
    return tfds.core.DatasetInfo(
        builder=builder,
        features=tfds.features.FeaturesDict(features),
        description=builder.__doc__,
        disable_shuffling=True,
    )


def write(
    data_dir: epath.PathLike,
    builder: type[RecipeBuilder],
    recipes: Recipes,
    workers: Workers | None,
    **keywords,
) -> None:
    """Runs a builder, here or by `workers`, without its chatter.

    TFDS writes to a folder beside the final one and renames it. Raises UserError if Beam fails.
    """
    scratch = epath.Path(data_dir) / "partial" / "downloads"  # TFDS wants one, though nothing is downloaded
    config = tfds.download.DownloadConfig()
    if workers:
        config.beam_runner, config.beam_options = workers.pipeline_runner(), workers.pipeline_options()
    shuffle.MAX_MEM_BUFFER_SIZE = (
        sys.maxsize
    )  # beyond it TFDS sorts in files, by TensorFlow, which is not here
    tfds.disable_progress_bar()
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with (
            workers.answering() if workers else contextlib.nullcontext(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            made = builder(
                recipes=recipes, workers=workers, data_dir=data_dir, file_format="array_record", **keywords
            )
            made.download_and_prepare(download_dir=scratch, download_config=config)
    finally:
        log.setLevel(level)


def examples(recipe: Recipe, workers: Workers | None):
    """Returns a split for TFDS: keys and records as an iterator, or what makes them on Beam."""
    if workers is None:
        return enumerate(recipe.records())
    import apache_beam as beam

    counts = np.ones(len(recipe.items), np.int64) if recipe.counts is None else np.asarray(recipe.counts)
    ends = np.cumsum(counts)
    placed = list(zip((ends - counts).tolist(), counts.tolist(), recipe.items, strict=True))
    return beam.Create(placed).with_output_types(Any) | beam.FlatMap(_Keyed(recipe.make, int(ends[-1])))


def shard_keys(places: np.ndarray, total: int) -> np.ndarray:
    """Returns rising keys for which TFDS's Beam writer makes the shards of its writer for one process.

    The latter cuts `total` records to S shards at round(total · i / S). The former puts a record with key k
    in shard floor(k · S / largest key). With the records cut to 1024 parts in the first way, the keys
    part · total + place in the part, and 1024 · total for the last, do the same for each power of two S.

    Args:
      places: int64 [n], numbers of records, from 0.
      total: records of the split.
    """
    starts = np.rint(total * np.arange(_SHARDS) / _SHARDS).astype(np.int64)
    part = np.searchsorted(starts, places, side="right") - 1
    keys = part * total + places - starts[part]
    return np.where(places == total - 1, _SHARDS * total, keys)


class _Keyed(NamedTuple):
    """An item with its place -> its records with their keys."""

    make: Callable[[Any], Iterable[dict]]
    total: int

    def __call__(self, placed: tuple[int, int, Any]) -> Iterator[tuple[int, dict]]:
        start, count, item = placed
        keys = shard_keys(np.arange(start, start + count), self.total).tolist()
        yield from zip(keys, self.make(item), strict=True)


def _sorted(record: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
