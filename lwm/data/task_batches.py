"""Batches of a mixture of tasks: rows of fixed composition, grouped by kind as their shapes differ.

    {kind: {name: array}}, kinds without rows absent; B rows, each kind its own number
    "classify"    images uint8 [B, R, R, 3], labels int32 [B]
    "caption"     images uint8 [B, R, R, 3], targets int32 [B, T]
    "speech"      waveform float32 [B, A] in [-1, 1), samples int32 [B], targets int32 [B, T]
    "translate"   source int32 [B, S], targets int32 [B, T]
    each also     task int32 [B] (its place in `tasks`), weights float32 [B] (of the row in the loss)

Texts end with the end of text; 0 fills them up behind it, as it does a waveform behind its `samples`. A row
of weight 0 is filler: it repeats a record, so that nothing in it is out of the ordinary.

Record number n of a task is in the same row of the same step whatever the number of hosts: a host builds the
rows [index · B / count, (index + 1) · B / count) of each kind.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from lwm.data.streams import shuffled
from lwm.data.task_mixture import composition, rows_by_kind
from lwm.data.task_records import KINDS, load_task_tokenizer, load_tasks, task_records
from lwm.data.task_rows import FewRecords, Row, RowBuilder, ShuffledTargets, TaskStream
from lwm.errors import UserError


def make_task_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    mixture: Mapping[str, float],
    batch_size: int,
    tasks: Sequence[str],
    resolution: int,
    samples: int,
    source_length: int,
    target_length: int,
    seed: int,
    loss_weights: Mapping[str, float] | None = None,
    multiple: int = 1,
    process_index: int = 0,
    process_count: int = 1,
    shuffle_labels: Sequence[str] = (),
    at_most: Mapping[str, int] | None = None,
    repeat: bool = True,
) -> "TaskBatches":
    """Returns batches of a folder of tasks, in the form that this module describes.

    Args:
      split: "train" or "heldout".
      mixture: shares of the rows by task, see `task_mixture.composition`.
      batch_size: rows of a step without filler, over all hosts.
      tasks: those of the model, in the order of its command tokens; they may be more than the mixture has.
      resolution, samples, source_length, target_length: R, A, S, T.
      loss_weights: of the rows of a task in the loss; 1 for those not named.
      multiple: what the rows of each kind, over all hosts, are filled up to; also of `process_count`.
      shuffle_labels: tasks whose targets are dealt out anew among the samples of the split "train", for a
        control; always in the same way.
      at_most: records of a task of which the split "train" has more, see `task_rows.FewRecords`; all of the
        tasks not named.
      repeat: for ever, shuffled; else one pass in stored order, ended by filler until every task is through.

    Raises:
      UserError: naming the argument, if something does not fit together or is not in `data_dir`.
    """
    manifest = load_tasks(data_dir)
    rows = composition(mixture, batch_size)
    named = [*(loss_weights or {}), *shuffle_labels, *(at_most or {})]
    _check_tasks(manifest, data_dir, split, rows, tasks, named)
    _check_sizes(manifest, rows, resolution, samples, source_length, target_length)
    if process_count < 1 or not 0 <= process_index < process_count:
        raise UserError(f"process_index: {process_index} is not one of {process_count} hosts")
    if multiple < 1:
        raise UserError(f"multiple: {multiple} is less than one row; leave it out")
    kinds = {task: manifest["tasks"][task]["kind"] for task in rows}
    tokenizer = load_task_tokenizer(data_dir, manifest)
    builder = RowBuilder(
        manifest["classes"],
        resolution=resolution,
        rate=manifest["rate"],
        samples=samples,
        lengths={"source": source_length, "target": target_length},
        encode=lambda text: [*tokenizer.encode(text), tokenizer.eos],
    )
    streams = {}
    for task in rows:
        records = task_records(data_dir, task, split)
        if not len(records):
            raise UserError(f"data: {data_dir} has no sample of {task} in split {split!r}; prepare it again")
        if split == "train":
            if task in shuffle_labels:
                records = ShuffledTargets(records, KINDS[kinds[task]][1], task)
            if task in (at_most or {}):
                records = FewRecords(records, at_most[task], task)
        streams[task] = TaskStream(
            records,
            build=lambda record, task=task: builder.build(record, task, kinds[task]),
            order=shuffled(len(records), seed=(seed + zlib.crc32(task.encode())) % 2**32) if repeat else None,
            number=tasks.index(task),
            weight=(loss_weights or {}).get(task, 1.0),
            rows=rows[task],
        )
    layout = rows_by_kind(rows, kinds, tasks, math.lcm(multiple, process_count))
    return TaskBatches(streams, layout, process_index, process_count)


class TaskBatches:
    """An iterator of batches with a JSON-able state; made by `make_task_batches`."""

    def __init__(
        self,
        streams: Mapping[str, TaskStream],
        layout: Mapping[str, Sequence[str | None]],
        process_index: int,
        process_count: int,
    ):
        self._streams, self._step = streams, 0
        ends = [stream.steps for stream in streams.values()]
        self._end = None if None in ends else max(ends)
        self._rows = {}
        for kind, tasks in layout.items():
            placed = [(task, tasks[:at].count(task)) for at, task in enumerate(tasks)]
            placed = [(task, at) if task else (tasks[0], None) for task, at in placed]  # filler: of the first
            share = len(placed) // process_count
            self._rows[kind] = placed[process_index * share : (process_index + 1) * share]

    def __iter__(self) -> "TaskBatches":
        return self

    def __next__(self) -> dict[str, Row]:
        if self._end is not None and self._step >= self._end:
            raise StopIteration
        batch = {}
        for kind, placed in self._rows.items():
            rows = [
                self._streams[task].filler() if at is None else self._streams[task].row(self._step, at)
                for task, at in placed
            ]
            batch[kind] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        self._step += 1
        return batch

    def get_state(self) -> dict:
        """Returns {"step"}: it is the same for all hosts."""
        return {"step": self._step}

    def set_state(self, state: dict) -> None:
        self._step = state["step"]


def _check_tasks(manifest, data_dir, split, rows, tasks, named) -> None:
    for task in [*rows, *named]:
        if task not in tasks:
            raise UserError(f"mixture: the model has no task {task!r}; its tasks are {', '.join(tasks)}")
        if task not in manifest["tasks"]:
            raise UserError(
                f"mixture: {data_dir} has no task {task!r}; its tasks are {', '.join(manifest['tasks'])}"
            )
    if split not in ("train", "heldout"):
        raise UserError(f"split: {split!r} is neither 'train' nor 'heldout'")


def _check_sizes(manifest, rows, resolution, samples, source_length, target_length) -> None:
    kinds = {manifest["tasks"][task]["kind"] for task in rows}
    if kinds & {"classify", "caption"} and resolution != manifest["resolution"]:
        raise UserError(
            f"resolution: {resolution}, but the images of the data folder have "
            f"{manifest['resolution']} pixels; use {manifest['resolution']} or prepare them anew"
        )
    for name, field, value in (
        ("samples", "samples", samples),
        ("source_length", "source", source_length),
        ("target_length", "target", target_length),
    ):
        task = max(rows, key=lambda task: manifest["tasks"][task][field]["longest"])
        longest = manifest["tasks"][task][field]["longest"]
        if longest > value:
            raise UserError(
                f"{name}: {value} does not hold the {longest} of the longest {field} of {task}; use "
                f"{longest} or prepare with smaller limits"
            )
