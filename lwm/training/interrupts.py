"""Ctrl-C and SIGTERM: finish the step, save, stop. A second one stops at once."""

import os
import signal
import threading

import jax
from orbax.checkpoint import multihost


class Interrupts:
    """Use as a context manager around training; `received` is the signal that asked for the end, or None.

    Signals are caught on one process only: on a cluster they are left to jax.distributed, which tells all
    hosts of the same step. Outside the main thread they cannot be caught, and nothing is changed.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before = {}
        self._steps = 0

    def __enter__(self) -> "Interrupts":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *failure) -> None:
        self._restore()

    def stop_here(self) -> bool:
        """Whether to save and stop after this step; every host asks once after each step of every stage.

        What jax.distributed agrees on is the number that comes after the largest one it was asked about, 0
        before the first. So steps are counted from the start of this process and through all stages: by the
        steps of a stage, a warning before the first step of a run that goes on, or between two stages, would
        name a step that never comes.
        """
        self._steps += 1
        if multihost.reached_preemption(self._steps):
            self.received = signal.SIGTERM
        return self.received is not None

    def _receive(self, number, frame) -> None:
        self.received = signal.Signals(number)
        # Not print: the handler may have interrupted one.
        os.write(2, b"\nfinishing this step, then saving; once more to stop at once\n")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
