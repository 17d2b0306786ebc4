"""The training step of a stage with the shapes and layout of all that it takes: no data, nothing allocated.

A run feeds it from a data folder (`plan`); `lwm.compilation` hands it to a compiler for devices that are
not there.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from lwm.errors import UserError
from lwm.parallel import sharding
from lwm.parallel.mesh import make_mesh
from lwm.training.experiment import Experiment
from lwm.training.inputs import batch_shapes
from lwm.training.optimizers import Schedule, make_optimizer, make_schedule, sparing
from lwm.training.stages import Stage, resolve_mesh
from lwm.training.state import TrainState, state_shapes
from lwm.training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class Program:
    """What one stage compiles.

    Attributes:
      batch: shapes of the global batch; batch_shardings: where they live.
      state: shapes of the state, with shardings.
    """

    stage: Stage
    model: Any
    mesh: Mesh
    optimizer: optax.GradientTransformation
    schedule: Schedule
    batch: dict[str, jax.ShapeDtypeStruct]
    batch_shardings: dict[str, jax.sharding.NamedSharding]
    state: TrainState


def make_program(
    experiment: Experiment, stage: Stage, build_model: Callable[[Stage], Any], devices: Sequence[jax.Device]
) -> Program:
    """Lays a stage out on devices, real ones or those of a topology.

    Args:
      build_model: the model of a stage.

    Raises:
      UserError: the mesh does not fit the devices, the batch or the model, or the model not the stage.
    """
    mesh = make_mesh(**resolve_mesh(stage, len(devices)), devices=devices)
    model = build_model(stage)
    rate = {
        name: getattr(stage, name)
        for name in ("learning_rate", "end_learning_rate", "warmup_steps", "schedule", "steps")
    }
    optimizer = make_optimizer(**rate, **dataclasses.asdict(experiment.optimizer))
    if frozen := getattr(model, "frozen", ()):
        optimizer = sparing(optimizer, frozen)
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    batch = batch_shapes(stage, model.config, mesh.shape["seq"], ways)
    try:
        batch_shardings = sharding.batch_shardings(batch, mesh)
        state = state_shapes(model, optimizer, batch, mesh)
    except ValueError as error:
        raise UserError(
            f"config.stages.{stage.name}.mesh: {dict(mesh.shape)} does not fit: {error}; change it or "
            "config.model"
        ) from error
    return Program(stage, model, mesh, optimizer, make_schedule(**rate), batch, batch_shardings, state)


def train_step(program: Program) -> Callable:
    """The jitted step of a stage, see `step.make_train_step`."""
    return make_train_step(
        program.model, program.optimizer, accumulate=program.stage.accumulate, schedule=program.schedule
    )
