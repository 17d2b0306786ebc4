"""Steps whose loss leaps far above those before them: how they are told, and what a run does about one.

It goes back to the last checkpoint that was due, passes over the batches from there to the spike, that one
included, and goes on with those after it. That is what PaLM's authors did by hand (2204.02311, section 5.1):
the same batches after another checkpoint made no spike.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lwm.errors import UserError
from lwm.training.experiment import Guards
from lwm.training.stages import Stage


class Spike(Exception):
    """The loss of a step is too far above the median of those before it."""

    def __init__(self, step: int, loss: float, median: float):
        super().__init__(
            f"{loss:.4g} at step {step}, {loss / median:.3g} times the median of the losses before"
        )
        self.step, self.loss, self.median = step, loss, median


class Rewinds(NamedTuple):
    """Of a stage that goes on from a checkpoint.

    total: times that it went back so far. batches: that come next and are passed over.
    """

    total: int = 0
    batches: int = 0


def rewinds_until(rows: Iterable[dict[str, Any]], stage: str, step: int) -> Rewinds:
    """Of a stage at the checkpoint of `step`, from the rows of metrics.jsonl.

    Each time it went back has a row of kind "rewind", at the step of the checkpoint that it went back to.
    """
    own = [row for row in rows if row.get("kind") == "rewind" and row["stage"] == stage]
    steps = [(row["step"], row["spike"]) for row in own if row["step"] <= step]
    return Rewinds(len(steps), sum(spike - begun for begun, spike in steps if begun == step))


def add_loss(losses: Sequence[float], step: int, loss: float, limits: Guards) -> list[float]:
    """The last losses, at most `limits.spike_window`, with that of this step; [] if nobody asks for them.

    Raises:
      Spike: there are so many, their median is positive, and this one more than `limits.spike` times that.
    """
    if not limits.spike:
        return []
    losses = list(losses[-limits.spike_window :])
    if len(losses) == limits.spike_window:
        median = statistics.median(losses)
        if 0 < limits.spike * median < loss:
            raise Spike(step, loss, median)
    return [*losses, loss][-limits.spike_window :]


def gave_up(stage: Stage, spike: Spike, rewinds: int) -> UserError:
    """The line that ends the run."""
    return UserError(
        f"config.stages.{stage.name}.learning_rate: {stage.learning_rate:g} made the loss {spike}, after "
        f"{rewinds} rewinds; lower it or warm up for longer, or raise config.guards.rewinds or guards.spike"
    )
