"""Everything that a run is told: the fields of a config, checked by `schema.build`."""

import dataclasses
from typing import Any

from lwm.errors import UserError
from lwm.training import schema
from lwm.training.stages import Stage, check_growth, check_stage


@dataclasses.dataclass(frozen=True)
class Data:
    path: str = ""  # folder made by `python -m lwm.prepare`


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW; the defaults are those of LWM's training code (2402.08268 and its release)."""

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0  # largest global norm of a gradient; 0 = no clipping

    def __post_init__(self):
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(
                    f"config.optimizer.{name}: {getattr(self, name)} is no decay; use 0 to below 1"
                )
        for name in ("eps", "weight_decay", "clip"):
            if not getattr(self, name) >= 0:
                raise UserError(f"config.optimizer.{name}: {getattr(self, name)} is negative; use 0 or more")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    keep: int = 1  # checkpoints of each stage that stay, the newest ones; 0 = all

    def __post_init__(self):
        if self.keep < 0:
            raise UserError(f"config.checkpoint.keep: {self.keep} is negative; use 0 (all) or more")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment: a model that goes through stages, in their order.

    Attributes:
      experiment: its name; a workdir belongs to one.
      model: {"name", "size", …fields to override}, read by `lwm.systems.build_model`.
      stages: the stages by name, in the order of training.
      init: workdir of another run whose last weights to start from, "" = random weights.
      seed: of weights, data order and everything random.
      log_every: steps from one row of metrics.jsonl to the next; the first and the last are always there.
    """

    experiment: str
    model: dict
    stages: dict[str, Stage]
    data: Data = Data()
    init: str = ""
    seed: int = 0
    optimizer: Optimizer = Optimizer()
    log_every: int = 10
    checkpoint: Checkpoint = Checkpoint()


def build_experiment(config: dict[str, Any]) -> Experiment:
    """Reads a whole config; checks all that can be checked without devices, data or a model.

    Raises:
      UserError: a field is unknown, missing, of the wrong type or out of range.
    """
    experiment = schema.build(Experiment, config, path="config")
    if not experiment.experiment:
        raise UserError("config.experiment: '' is no name; give the experiment one")
    if experiment.log_every < 1:
        raise UserError(f"config.log_every: {experiment.log_every} steps; use 1 or more")
    if experiment.seed < 0:
        raise UserError(f"config.seed: {experiment.seed} is negative; use 0 or more")
    if not experiment.stages:
        raise UserError("config.stages: {} has no stage; describe at least one")
    for stage in experiment.stages.values():
        check_stage(stage)
    check_growth(list(experiment.stages.values()))
    return experiment
