"""Turns the metrics of a stage into rows of metrics.jsonl and into what is shown; stops what has diverged."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from lwm.training import guards, spikes
from lwm.training.experiment import Guards
from lwm.training.metrics import MetricsLog, read_rows
from lwm.training.progress import Report
from lwm.training.stages import Stage
from lwm.training.stopwatch import Stopwatch

WORKING = ("waiting", "in_steps")  # rates count no other seconds


class Recorder:
    """The rows of one stage; only the first host writes them.

    Attributes:
      losses: of the last steps, see `spikes.add_loss`.
    """

    def __init__(
        self,
        stage: Stage,
        *,
        log: MetricsLog | None,
        report: Report,
        log_every: int,
        units_before: int,
        seconds: float,
        workdir: epath.Path,
        limits: Guards,
        losses: Sequence[float] = (),
        rewinds: int = 0,
        at_peak: float | None = None,
        stopwatch: Stopwatch | None = None,
    ):
        """Starts the clock of the stage; `start` is to follow.

        Args:
          log: None on the hosts that do not write.
          log_every: steps from row to row; the first and the last step have one too.
          units_before: tokens or images that earlier stages have seen.
          seconds: that the run has taken before.
          workdir: where batches of skipped steps are kept.
          limits: to skipped steps and to spikes.
          losses: as they were after the step that the stage goes on from.
          rewinds: times that the stage went back.
          at_peak: seconds of a step at the peak rate of the devices, for MFU; None = not known.
        """
        self._stage, self._log, self._report = stage, log, report
        self._log_every, self._units_before = log_every, units_before
        self._workdir, self._limits, self._at_peak = workdir, limits, at_peak
        self.losses, self._rewinds = list(losses), rewinds
        self._skips = guards.Skips()
        self._zero = time.monotonic() - seconds
        self._stopwatch = stopwatch or Stopwatch()
        # The step at which this session, and the interval of the next row, began; seconds of work before it.
        self._first = self._mark = 0
        self._before = 0.0

    def start(self, step: int, compiled_in: float) -> None:
        """Training begins, or goes on, after `step`."""
        self._first = self._mark = step
        self._stopwatch.restart()
        rows = read_rows(self._log.path) if self._log is not None and step else []
        # Only the first host has to see the rows; all of them have to stop at the same step.
        skips = np.array(guards.skips_until(rows, self._stage.name, step), np.int32)
        self._skips = guards.Skips(*map(int, multihost_utils.broadcast_one_to_all(skips)))
        self._report.say(f"{self._stage.name} · from step {step} · compiled in {compiled_in:.1f} s")

    def enter(self, phase: str) -> None:
        """What this host does now: "waiting" for data, "compiling", "in_steps", "evaluating" or "saving"."""
        self._stopwatch.enter(phase)

    def train_row(self, step: int, metrics: dict[str, jax.Array], batch: dict[str, Any]) -> None:
        """Waits for the metrics of a step.

        Raises:
          UserError: too many steps in a row were skipped, as their loss or gradient was no finite number.
          Spike: its loss is too far above those before it; it has no row.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._skips = self._skips.after(values["skipped"] > 0)
        if self._skips.in_row:
            self._skip(step, values, batch)
            return
        self.losses = spikes.add_loss(self.losses, step, values["loss"], self._limits)
        stage, unit = self._stage, self._stage.unit
        logged = step % self._log_every == 0 or step in (1, stage.steps)
        interval, steps = self._stopwatch.spent(*WORKING), step - self._mark
        rate = steps * stage.batch_units / max(interval, 1e-9)
        row = {
            "kind": "train",
            **self._place(step),
            **_reported(values),
            "skipped": self._skips.total,
            **({"rewinds": self._rewinds} if self._limits.spike else {}),
            f"{unit}_per_second": round(rate, 1),
        }
        eta = (stage.steps - step) * (self._before + interval) / (step - self._first)
        if logged:
            row |= self._cost(steps, interval)
            self._mark, self._before = step, self._before + interval
            self._stopwatch.restart()
            self._write(row | {"seconds": self._seconds()})
        self._report.update(row | {"eta": eta}, stage.steps, unit, logged=logged)

    def eval_row(self, step: int, values: dict[str, float]) -> None:
        """Held-out losses after a step."""
        self._write({"kind": "eval", **self._place(step), **_reported(values), "seconds": self._seconds()})
        self._report.say(f"{self._stage.name} · step {step} · held-out loss {values['loss']:.4f}")

    def rewind_row(self, spike: spikes.Spike, step: int) -> None:
        """The stage goes back to `step`: a row of kind "rewind" there, after which all rows are dropped."""
        about = {"spike": spike.step, "loss": spike.loss, "median": spike.median}
        row = {"kind": "rewind", **self._place(step), **about, "rewinds": self._rewinds + 1}
        self._write(row | {"seconds": self._seconds()})
        self._report.say(
            f"{self._stage.name} · loss {spike} · back to step {step}, {spike.step - step} batches passed "
            f"over · rewind {self._rewinds + 1} of {self._limits.rewinds}"
        )

    def _skip(self, step: int, values: dict[str, float], batch: dict[str, Any]) -> None:
        """A row of kind "skip" with what is finite, and the names of what is not; the batch is kept."""
        stage, skips = self._stage, self._skips
        ends = guards.too_many(skips, stage, self._limits.skips_in_row)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        odd = [name for name in values if name not in finite]
        row = {"kind": "skip", **self._place(step), **finite, "skipped": skips.total, "not_finite": odd}
        self._write(row | {"seconds": self._seconds()})
        if skips.total <= guards.KEPT or ends:
            guards.keep_batch(self._workdir, stage.name, step, values, batch)
        if ends:
            raise guards.diverged(stage, step, values, skips)
        self._report.say(
            f"{stage.name} · step {step} skipped, {' and '.join(odd)} not finite · "
            f"{skips.in_row} in a row, {skips.total} in all"
        )

    def _cost(self, steps: int, interval: float) -> dict[str, float]:
        """Seconds since the row before, by what took them; the share of the peak; the fullest device."""
        cost = {f"seconds_{phase}": round(self._stopwatch.spent(phase), 3) for phase in WORKING}
        for phase in ("evaluating", "saving"):
            if seconds := self._stopwatch.spent(phase):
                cost[f"seconds_{phase}"] = round(seconds, 3)
        if self._at_peak:
            cost["mfu"] = round(steps * self._at_peak / max(interval, 1e-9), 4)
        statistics = [device.memory_stats() or {} for device in jax.local_devices()]
        if peak := max(own.get("peak_bytes_in_use", 0) for own in statistics):
            cost["memory_gib"] = round(peak / 2**30, 3)
        return cost

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
