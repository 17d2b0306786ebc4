"""Turns the metrics of a stage into rows of metrics.jsonl and into what is shown."""

import math
import time
from typing import Any

import jax

from lwm.errors import UserError
from lwm.training.metrics import MetricsLog
from lwm.training.progress import Report
from lwm.training.stages import Stage


class Recorder:
    """The rows of one stage; only the first host writes them."""

    def __init__(
        self,
        stage: Stage,
        *,
        log: MetricsLog | None,
        report: Report,
        log_every: int,
        units_before: int,
        seconds: float,
    ):
        """Starts the clock of the stage; `start` is to follow.

        Args:
          log: None on the hosts that do not write.
          log_every: steps from row to row; the first and the last step have one too.
          units_before: tokens or images that earlier stages have seen.
          seconds: that the run has taken before.
        """
        self._stage, self._log, self._report = stage, log, report
        self._log_every, self._units_before = log_every, units_before
        self._zero = time.monotonic() - seconds
        self._since = self._zero
        self._first = self._mark = (
            0  # the step at which this session, and the interval of the next row, began
        )
        self._busy = self._interval = 0.0  # seconds in steps alone since then: rates count nothing else

    def start(self, step: int, compiled_in: float) -> None:
        """Training begins, or goes on, after `step`."""
        self._first = self._mark = step
        self._report.say(f"{self._stage.name} · from step {step} · compiled in {compiled_in:.1f} s")
        self.resume()

    def resume(self) -> None:
        """An evaluation or a checkpoint is over."""
        self._since = time.monotonic()

    def train_row(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Waits for the metrics of a step.

        Raises:
          UserError: the loss is no longer a number.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        self._interval += now - self._since
        self._busy += now - self._since
        self._since = now
        stage, unit = self._stage, self._stage.unit
        if not math.isfinite(values["loss"]):
            raise UserError(
                f"config.stages.{stage.name}.learning_rate: {stage.learning_rate:g} made the loss "
                f"{values['loss']} at step {step}; lower it or warm up for longer"
            )
        logged = step % self._log_every == 0 or step in (1, stage.steps)
        rate = (step - self._mark) * stage.batch_units / max(self._interval, 1e-9)
        row = {
            "kind": "train",
            **self._place(step),
            **_reported(values),
            f"{unit}_per_second": round(rate, 1),
        }
        row["seconds"] = self._seconds()
        if logged:
            self._mark, self._interval = step, 0.0
            self._write(row)
        eta = (stage.steps - step) * self._busy / (step - self._first)
        self._report.update(row | {"eta": eta}, stage.steps, unit, logged=logged)

    def eval_row(self, step: int, values: dict[str, float]) -> None:
        """Held-out losses after a step."""
        self._write({"kind": "eval", **self._place(step), **_reported(values), "seconds": self._seconds()})
        self._report.say(f"{self._stage.name} · step {step} · held-out loss {values['loss']:.4f}")

    def _place(self, step: int) -> dict[str, Any]:
        units = self._units_before + step * self._stage.batch_units
        return {"stage": self._stage.name, "step": step, self._stage.unit: units}

    def _seconds(self) -> float:
        return round(time.monotonic() - self._zero, 3)

    def _write(self, row: dict) -> None:
        if self._log is not None:
            self._log.append(row)


def _reported(values: dict[str, float]) -> dict[str, float]:
    """The loss first; nothing of tasks that no row was of."""
    absent = {
        name.partition("_")[2] for name, value in values.items() if name.startswith("count_") and not value
    }
    left_out = {"denominator"} | {
        f"{what}_{task}" for task in absent for what in ("loss", "accuracy", "count")
    }
    return {
        "loss": values["loss"],
        **{name: value for name, value in values.items() if name not in left_out},
    }
