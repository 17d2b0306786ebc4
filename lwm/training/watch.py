"""A host that hangs says where and ends itself, so that its launcher starts it again.

One thread rewrites the host's heartbeat every few seconds, see `heartbeats`. Another one looks whether there
was progress; when there was none for too long, it writes one line and the Python stack of every thread to
stderr and to WORKDIR/hosts/<index>.txt, and ends the process with the code HUNG. All hosts of a collective
that hangs do so; the line of each names those that have not come as far as the others.
"""

import contextlib
import faulthandler
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable

from etils import epath

from lwm.training.heartbeats import Beat, laggards, read_beats
from lwm.training.workdir import write_json

HUNG = 142  # 128 + SIGALRM: xpk and SkyPilot start a job again after codes like those of signals
PERIOD = 10.0  # seconds from one heartbeat, and one look, to the next
LAST_WORDS = 60.0  # seconds for them, on a file system that may hang as well
# Compiling and restoring take what they take; whoever waits for this host meanwhile is in a step, and timed.
UNTIMED = ("starting", "compiling", "ended")


class Watch:
    """Use as a context manager around training; `enter` tells it of progress."""

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        index: int,
        hosts: int,
        minutes: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        exit: Callable[[int], None] = os._exit,
    ):
        """Nothing is written yet.

        Args:
          index, hosts: of this host, and how many there are.
          minutes: without progress, before the process is ended; 0 = for ever.
          clock, wall: seconds that never go back; seconds since 1970.
          exit: ends the process; not sys.exit, which the thread that hangs would never come to hear of.
        """
        self._workdir, self._index, self._hosts = epath.Path(workdir), index, hosts
        self._minutes, self._clock, self._wall = minutes, clock, wall
        self._exit = exit
        self._over = threading.Event()
        # Two, so that a file system that hangs keeps no host alive.
        self._threads = [
            threading.Thread(target=self._repeat, args=(action,), name=action.__name__, daemon=True)
            for action in (self.beat, self.look)
        ]
        self._place = ("", 0, 0, "starting", clock(), wall())

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, *failure) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PERIOD)
        stage, place, step, doing, _, _ = self._place
        self.enter(stage, place, step, f"failed {doing}" if kind else "ended")
        self.beat()

    def enter(self, stage: str, place: int, step: int, doing: str) -> None:
        """Progress: the stage, its place among the stages, the last step begun, and what is done there."""
        self._place = (stage, place, step, doing, self._clock(), self._wall())

    def look(self) -> None:
        """Ends the process if it hangs."""
        stage, _, step, doing, since, _ = self._place
        passed = self._clock() - since
        if not self._minutes or doing in UNTIMED or passed <= 60 * self._minutes:
            return
        # On a file system that hangs as well, last words would be for ever.
        timer = threading.Timer(LAST_WORDS, self._exit, (HUNG,))
        timer.daemon = True
        timer.start()
        behind = laggards(read_beats(self._workdir), self._hosts, self._wall())
        self._tell(
            f"error: host {self._index} of {self._hosts} ({platform.node()}): no progress for "
            f"{passed / 60:.0f} minutes at step {step} of stage {stage}, {doing}; behind: "
            f"{', '.join(behind) or 'no other host'}; ends with code {HUNG}, to be started again "
            f"(config.guards.hang_minutes: {self._minutes:g})"
        )
        timer.cancel()
        self._exit(HUNG)

    def beat(self) -> None:
        """Writes the heartbeat."""
        stage, place, step, doing, _, since = self._place
        beat = Beat(self._index, platform.node(), stage, place, step, doing, since, self._wall())
        with contextlib.suppress(OSError):  # a full disk is for those to tell who have to write
            write_json(self._workdir / "hosts" / f"{self._index}.json", beat._asdict())

    def _repeat(self, action: Callable[[], None]) -> None:
        while True:
            action()
            if self._over.wait(PERIOD):
                return

    def _tell(self, line: str) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            text = f"{line}\n{file.read()}"
        print(text, file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            (self._workdir / "hosts" / f"{self._index}.txt").write_text(text)
