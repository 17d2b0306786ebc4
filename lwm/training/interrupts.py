"""Ctrl-C and SIGTERM: finish the step, save, stop. A second one stops at once."""

import os
import signal
import threading

import jax


class Interrupts:
    """Use as a context manager around training; `received` is the signal that asked for the end, or None.

    Only on one process: on a cluster Orbax and jax.distributed agree on a step at which all hosts save, and
    signals are left to them. Outside the main thread signals cannot be caught, and nothing is changed.
    """

    def __init__(self):
        self.received: signal.Signals | None = None
        self._before = {}

    def __enter__(self) -> "Interrupts":
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *failure) -> None:
        self._restore()

    def _receive(self, number, frame) -> None:
        self.received = signal.Signals(number)
        # Not print: the handler may have interrupted one.
        os.write(2, b"\nfinishing this step, then saving; once more to stop at once\n")
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
