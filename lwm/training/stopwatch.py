"""Where the time of a host goes, phase by phase."""

import time
from collections.abc import Callable


class Stopwatch:
    """Seconds in each phase; always in one of them, at first in ""."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._phase, self._since = clock, "", clock()
        self._spent: dict[str, float] = {}

    def enter(self, phase: str) -> None:
        """The phase so far ends, another begins; it may be the same one."""
        now = self._clock()
        self._spent[self._phase] = self._spent.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def spent(self, *phases: str) -> float:
        """Seconds in these phases since the start, or since `restart`."""
        self.enter(self._phase)
        return sum(self._spent.get(phase, 0.0) for phase in phases)

    def restart(self) -> None:
        """Counts from zero; the phase stays."""
        self.enter(self._phase)
        self._spent = {}
