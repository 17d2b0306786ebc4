"""What can be known of a stage before it starts; mistakes that show without compiling are found here."""

import dataclasses
import functools
import math
import shutil
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from lwm.errors import UserError
from lwm.training import inputs
from lwm.training.checkpoints import stage_folder
from lwm.training.experiment import Experiment
from lwm.training.program import Program, make_program
from lwm.training.recovery import saved_steps
from lwm.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Plan(Program):
    """The program of a stage with its place in the run and its data: ready to start.

    Attributes:
      index: its place among the stages.
      units_before: tokens or images that the stages before it have seen.
      stream: opens this host's part of its batches, `stream(split=…, seed=…)`.
    """

    index: int
    units_before: int
    stream: Callable[..., Any]


def make_plan(
    experiment: Experiment, index: int, build_model: Callable, manifest: dict, open_batches: Callable
) -> Plan:
    """Plans a stage on the devices of this run.

    Args:
      build_model, open_batches: see `loop.train`.
      manifest: data.json.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the model, or the data lack something.
    """
    stages = list(experiment.stages.values())
    stage = stages[index]
    where = f"config.stages.{stage.name}"
    program = make_program(experiment, stage, build_model, jax.devices())
    inputs.check_data(stage, manifest, program.model.config)
    ways = program.mesh.shape["data"] * program.mesh.shape["fsdp"]
    try:
        # The rows of each kind of tasks are a multiple of the devices that share them.
        rows = inputs.host_rows(program.mesh, ways if stage.of_tasks else stage.rows)
    except ValueError as error:
        raise UserError(
            f"{where}.mesh: {dict(program.mesh.shape)} does not fit: {error}; change it or config.model"
        ) from error
    ring = program.mesh.shape["seq"]
    stream = functools.partial(open_batches, stage, experiment.data.path, ring=ring, rows=rows)
    if stage.of_tasks:
        stream = functools.partial(stream, ways=ways)
    if stage.of_tasks or stage.of_pages:
        stream = functools.partial(stream, config=program.model.config)
    try:
        for split in ("train", "heldout") if stage.eval_every else ("train",):
            stream(split=split, seed=experiment.seed)
    except UserError as error:
        raise UserError(f"{where}.{error}") from error
    return Plan(
        index=index,
        units_before=sum(before.steps * before.batch_units for before in stages[:index]),
        stream=stream,
        **vars(program),
    )


def check_space(workdir: epath.PathLike, plans: list[Plan], keep: int) -> None:
    """Checks that the checkpoints of all stages to come fit on a local disk (`keep` of each, and one more).

    Those that are there already take no more room: each that is new takes the place of one of them.

    Raises:
      UserError: there is too little room.
    """
    folder = epath.Path(workdir)
    if "://" in str(folder):
        return
    while not folder.exists():
        folder = folder.parent
    sizes = [_bytes(plan.state) for plan in plans]
    there = [len(saved_steps(stage_folder(workdir, plan.index, plan.stage.name))) for plan in plans]
    lacking = [max(keep - count, 0) if keep else 1 for count in there]
    needed = max(sizes) + sum(count * size for count, size in zip(lacking, sizes, strict=True))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"workdir: {workdir} has {free / 1e9:.1f} GB of free space, its checkpoints need "
            f"{needed / 1e9:.1f} GB; free some space or choose a folder on another disk"
        )


def _bytes(state: TrainState) -> int:
    leaves = jax.tree.leaves(state._replace(key=()))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
