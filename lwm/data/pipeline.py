"""Batches: rows of a mixture of sources, the same whatever the number of hosts.

Row b of the global batch is lane b. It has its own stream of every source and its own packer, and a host
builds only its lanes. Each row holds one source (examples of unlike loss density are packed apart, as in
LWM); Grain's deterministic mix says which, so the mixture's weights are shares of the rows, in every batch as
nearly as they can be.
"""

from collections.abc import Mapping

import grain
import numpy as np
from etils import epath

from lwm.data import datasets
from lwm.data.manifest import load_manifest
from lwm.data.packing import WEIGHTINGS, pack_row
from lwm.data.streams import Marks, Stream, shuffled
from lwm.errors import UserError
from lwm.parallel.layout import zigzag_order


def make_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    mixture: Mapping[str, float],
    context_length: int,
    batch_size: int,
    seed: int,
    ring: int = 1,
    stripe: int = 0,
    caption_dropout: float = 0.1,
    swap_order: bool = True,
    weighting: str = "example",
    process_index: int = 0,
    process_count: int = 1,
    repeat: bool = True,
) -> "Batches":
    """Returns the batches of a data folder, dicts of [batch_size / process_count, context_length] arrays.

    Args:
      split: "train" or "heldout".
      mixture: share of the rows by source; need not sum to one; 0 leaves a source out.
      ring, stripe: size of the mesh axis "seq"; with more than 1 the sequence axis comes in
        `zigzag_order(context_length, ring, stripe)`.
      caption_dropout, swap_order, weighting: see `Stream`, `pack_row`.
      repeat: for ever, shuffled; else one pass in stored order, ended by rows of padding until every lane is
      through.

    Raises UserError naming the argument if something does not fit together or is not in `data_dir`.
    """
    manifest = load_manifest(data_dir)
    mixture = {source: weight for source, weight in mixture.items() if weight}
    check_batch(context_length, batch_size, ring, stripe, weighting, process_count)
    _check(manifest, split, mixture, context_length)
    marks = Marks.of(manifest)
    documents = {source: datasets.documents(data_dir, source, split) for source in mixture}
    rows = batch_size // process_count
    mine = range(process_index * rows, (process_index + 1) * rows)
    lanes = {
        lane: {
            source: Stream(
                documents[source],
                marks,
                name=source,
                seed=seed,
                lane=lane,
                lanes=batch_size,
                repeat=repeat,
                length=context_length,
                caption_dropout=caption_dropout,
                swap_order=swap_order,
            )
            for source in mixture
        }
        # One pass ends for all hosts at once, so each of them has to follow every lane.
        for lane in (mine if repeat else range(batch_size))
    }
    order = zigzag_order(context_length, ring, stripe) if ring > 1 else None
    return Batches(lanes, mine, mixture, context_length, batch_size, seed, order, weighting)


class Batches:
    """An iterator of batches with a JSON-able state; made by `make_batches`."""

    def __init__(
        self,
        lanes: dict[int, dict[str, Stream]],
        mine: range,
        mixture: Mapping[str, float],
        length: int,
        batch_size: int,
        seed: int,
        order: np.ndarray | None,
        weighting: str,
    ):
        names = [grain.MapDataset.source([source]).repeat() for source in mixture]
        self._schedule = grain.MapDataset.mix(names, weights=list(mixture.values()))
        self._lanes, self._mine, self._length, self._batch_size = lanes, mine, length, batch_size
        self._seed, self._weighting, self._step = seed, weighting, 0
        self._order = order

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if all(stream.ended for streams in self._lanes.values() for stream in streams.values()):
            raise StopIteration
        places = np.random.default_rng((self._seed, self._step)).permutation(self._batch_size)
        rows = {
            lane: self._row(streams, self._schedule[self._step * self._batch_size + int(places[lane])])
            for lane, streams in self._lanes.items()
        }
        self._step += 1
        return {name: np.stack([rows[lane][name] for lane in self._mine]) for name in rows[self._mine[0]]}

    def get_state(self) -> dict:
        """Returns where this host is: {"step", "lanes": {lane: {source: [visit, slot]}}}."""
        lanes = {
            str(lane): {source: stream.get_state() for source, stream in streams.items()}
            for lane, streams in self._lanes.items()
        }
        return {"step": self._step, "lanes": lanes}

    def set_state(self, state: dict) -> None:
        """Goes to where `state` was taken; it must hold this host's lanes, and may hold more."""
        self._step = state["step"]
        for lane, streams in self._lanes.items():
            for source, stream in streams.items():
                stream.set_state(state["lanes"][str(lane)][source])

    def _row(self, streams: dict[str, Stream], source: str) -> dict[str, np.ndarray]:
        if streams[source].ended:
            source = next((other for other in streams if not streams[other].ended), source)
        return self._filled(streams[source])

    def _filled(self, stream: Stream) -> dict[str, np.ndarray]:
        pieces, room = [], self._length
        while room and (piece := stream.take(room)) is not None:
            pieces.append(piece)
            room -= piece.slots
        row = pack_row(pieces, self._length, self._weighting)
        return row if self._order is None else {name: array[self._order] for name, array in row.items()}


def make_image_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    repeat: bool = True,
) -> "ImageBatches":
    """Returns batches {"images": uint8 [batch_size / process_count, R, R, 3]} of the frames of a data folder.

    With `repeat` for ever, shuffled; else one pass in stored order, less the remainder of the last batch.
    Raises UserError if the split has fewer frames than a batch.
    """
    frames = datasets.frames(data_dir, split)
    _check_hosts(batch_size, process_count)
    if len(frames) < batch_size:
        raise UserError(
            f"batch_size: {batch_size} is more than the {len(frames)} {split} frames of {data_dir}"
        )
    return ImageBatches(frames, batch_size, seed, process_index, process_count, repeat)


class ImageBatches:
    """An iterator of image batches with a JSON-able state; made by `make_image_batches`."""

    def __init__(
        self, frames, batch_size: int, seed: int, process_index: int, process_count: int, repeat: bool
    ):
        self._order = shuffled(len(frames), seed=seed % 2**32) if repeat else range(len(frames))
        self._frames, self._batch_size, self._step = frames, batch_size, 0
        rows = batch_size // process_count
        self._mine = range(process_index * rows, (process_index + 1) * rows)

    def __iter__(self) -> "ImageBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        start = self._step * self._batch_size
        if start + self._batch_size > len(self._order):
            raise StopIteration
        self._step += 1
        return {
            "images": np.stack(self._frames.__getitems__([self._order[start + row] for row in self._mine]))
        }

    def get_state(self) -> dict:
        return {"step": self._step}

    def set_state(self, state: dict) -> None:
        self._step = state["step"]


def check_batch(
    context_length: int, batch_size: int, ring: int, stripe: int, weighting: str, process_count: int
) -> None:
    """Raises UserError naming what of `make_batches`' arguments no batch can have."""
    unit = 2 * ring * max(stripe, 1) if ring > 1 else 1
    if weighting not in WEIGHTINGS:
        raise UserError(f"weighting: {weighting!r} is not one of {WEIGHTINGS}")
    if context_length < 1 or context_length % unit:
        raise UserError(
            f"context_length: {context_length} is not a multiple of {unit} (2 x seq x any stripe); choose one"
        )
    _check_hosts(batch_size, process_count)


def _check(manifest, split, mixture, context_length) -> None:
    sources = manifest.get("sources", {})
    if not mixture or min(mixture.values()) < 0:
        raise UserError(
            f"mixture: {dict(mixture)} has no source of positive weight; give a share of {list(sources)}"
        )
    for source in mixture:
        if source not in sources:
            hint = "" if manifest["vqgan"] else " (sources with vision need lwm.prepare --vqgan)"
            raise UserError(f"mixture: there is no source {source!r}; the data has {list(sources)}{hint}")
        if not sources[source].get(split, {}).get("documents"):
            raise UserError(
                f"mixture: source {source!r} has no {split} documents; choose another split or source"
            )
        longest = manifest["longest_text"].get(source)
        if longest:
            marks = Marks.of(manifest)
            needed = marks.slots_around_frames(longest["tokens"]) + marks.tokens_per_frame
            if needed > context_length:
                raise UserError(
                    f"context_length: {context_length} does not hold a frame and the {longest['tokens']} "
                    f"tokens of {longest['name']}; give {needed} or more, or prepare with --max_caption"
                )


def _check_hosts(batch_size: int, process_count: int) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(f"batch_size: {batch_size} rows cannot be shared evenly by {process_count} hosts")
