"""A trace of chosen steps, to be looked at with XProf or Perfetto: --profile=STAGE:FIRST-LAST.

WORKDIR/profile/<stage>_<first>-<last>/plugins/profile/…
"""

import re
from typing import Any, NamedTuple

import jax
from etils import epath

from lwm.errors import UserError
from lwm.limits import suggest
from lwm.training.experiment import Experiment


class Window(NamedTuple):
    """The steps to trace, the first and the last one included."""

    stage: str
    first: int
    last: int


def parse_window(text: str, experiment: Experiment) -> Window | None:
    """Reads STAGE:FIRST-LAST; None of "".

    Raises:
      UserError: another form, no such stage, or steps that the stage does not have.
    """
    if not text:
        return None
    found = re.fullmatch(r"(.+):([0-9]{1,9})-([0-9]{1,9})", text)
    if not found:
        raise UserError(f"--profile: {text!r} is no range of steps; write STAGE:FIRST-LAST")
    window = Window(found[1], int(found[2]), int(found[3]))
    if window.stage not in experiment.stages:
        raise UserError(
            f"--profile: {window.stage!r} is no stage; {suggest(window.stage, experiment.stages)}"
        )
    steps = experiment.stages[window.stage].steps
    if not 1 <= window.first <= window.last <= steps:
        raise UserError(f"--profile: {text!r} is no range in {window.stage}; choose from 1-{steps}")
    return window


class Trace:
    """Of a window of one stage, on the host that it is given to; a context manager around the steps."""

    def __init__(self, window: Window | None, folder: epath.Path):
        """Args:
        window: None = no trace.
        folder: where it goes, a folder of its own in there.
        """
        self._window, self._folder, self._running = window, folder, False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *failure) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """A step is about to begin."""
        window = self._window
        if window and not self._running and window.first <= step <= window.last:
            jax.profiler.start_trace(self._folder / f"{window.stage}_{window.first}-{window.last}")
            self._running = True

    def after(self, step: int, metrics: Any) -> None:
        """A step was started, and these are its metrics; the last one is waited for."""
        if self._running and step == self._window.last:
            jax.block_until_ready(metrics)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
