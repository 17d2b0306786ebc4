"""Everything that a run is told: the fields of a config, checked by `schema.build`."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from lwm.limits import COUNT, SHARE, SIZE, Rules, Unread
from lwm.training import schema
from lwm.training.stages import PAGE_WEIGHTS, Stage


@dataclasses.dataclass(frozen=True)
class Data:
    path: str = ""  # folder made by `python -m lwm.prepare`


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW; the defaults are those of LWM's training code (2402.08268 and its release)."""

    b1: Annotated[float, SHARE] = 0.9
    b2: Annotated[float, SHARE] = 0.95
    eps: Annotated[float, COUNT] = 1e-8
    weight_decay: Annotated[float, COUNT] = 0.1
    clip: Annotated[float, COUNT] = 1.0  # largest global norm of a gradient; 0 = no clipping


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    keep: Annotated[int, COUNT] = 2  # checkpoints of each stage that stay, the newest ones; 0 = all


def _factor(guards: "Guards") -> Iterator[str]:
    if 0 < guards.spike <= 1:
        yield f"spike: {guards.spike!r} is no factor above 1; use for example 2, or 0 for none"


@dataclasses.dataclass(frozen=True)
class Guards:
    """When a run passes something over, when it goes back, and when it ends itself.

    Attributes:
      skips_in_row: steps in a row whose loss or gradient may be no finite number; they change no weight, and
        one more ends the run.
      spike: a step whose loss is more than so many times the median of the losses before it makes the run go
        back and pass batches over, see `spikes`; 0 = never.
      spike_window: steps of a stage that the median is of; before there were so many, there is no spike.
      rewinds: times that a stage may go back; the next spike ends the run.
      hang_minutes: a host that makes no progress for so long says where it is and ends; 0 = never.
    """

    skips_in_row: Annotated[int, COUNT] = 5
    spike: Annotated[float, COUNT] = 0.0
    spike_window: Annotated[int, SIZE] = 32
    rewinds: Annotated[int, SIZE] = 3
    hang_minutes: Annotated[float, COUNT] = 30.0

    RULES: ClassVar[Rules] = (_factor,)


def _named(experiment: "Experiment") -> Iterator[str]:
    if not experiment.experiment:
        yield "experiment: '' is no name; give the experiment one"


def _staged(experiment: "Experiment") -> Iterator[str]:
    if not experiment.stages:
        yield "stages: {} has no stage; describe at least one"


def _growing(experiment: "Experiment") -> Iterator[str]:
    """Neither the context nor theta shrinks from one stage to the next (2402.08268, section 3.1)."""
    stages = list(experiment.stages.items())
    for (earlier, before), (later, after) in zip(stages, stages[1:], strict=False):
        for field in ("context_length", "rope_theta"):
            with contextlib.suppress(Unread):
                least, value = getattr(before, field), getattr(after, field)
                if value < least:
                    why = f"is less than {least:g} of stage {earlier}"
                    fix = "stages must not shrink: raise it or change their order"
                    yield f"stages.{later}.{field}: {value!r} {why}; {fix}"


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
    seed: Annotated[int, COUNT] = 0
    optimizer: Optimizer = Optimizer()
    log_every: Annotated[int, SIZE] = 10
    checkpoint: Checkpoint = Checkpoint()
    guards: Guards = Guards()

    RULES: ClassVar[Rules] = (_named, _staged, _growing)


def build_experiment(config: dict[str, Any]) -> Experiment:
    """Reads a whole config; checks all that can be checked without devices, data or a model.

    Raises:
      UserError: fields are unknown, missing, of the wrong type or out of range, or do not go together; with a
        line for each.
    """
    return schema.build(Experiment, _weighed(config), path="config")


def read_experiment(config: dict[str, Any]) -> tuple[Experiment, list[str]]:
    """As `build_experiment`, but returns what is wrong as lines, see `schema.read`."""
    return schema.read(Experiment, _weighed(config), path="config")


def _weighed(config: dict[str, Any]) -> dict[str, Any]:
    """The config with DreamLLM's weights of losses in stages of documents that do not give them."""
    if not isinstance(config, Mapping) or not isinstance(config.get("stages"), Mapping):
        return config
    stages = {
        name: PAGE_WEIGHTS | dict(block) if isinstance(block, Mapping) and block.get("images") else block
        for name, block in config["stages"].items()
    }
    return {**config, "stages": stages}
