"""Text on stdout as it comes, and on stderr how far it is: a bar on a terminal, plain lines in a log."""

import sys
import time
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

_SECONDS = 5  # from one line of a log to the next


class Typewriter:
    """Use as a context manager around the making of at most `total` tokens, or of what else `unit` says.

    Where text and bar share a terminal, the bar stays below the text.
    """

    def __init__(
        self,
        total: int,
        *,
        what: str = "text",
        unit: str = "tokens",
        out: TextIO | None = None,
        err: TextIO | None = None,
    ):
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._what, self._unit, self._total, self._done = what, unit, total, 0
        self._shown = self._started = time.monotonic()
        self._first: tuple[float, int] | None = None  # when the first tokens came; compiling is before
        self._line, self._live = "", None
        if self._err.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[status]}"))
            self._task = self._bar.add_task(what, total=total, status="compiling")
            self._live = Live(self._bar, console=Console(file=self._err), refresh_per_second=8)

    def __enter__(self) -> "Typewriter":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *failure) -> None:
        if self._live:
            self._live.update(self._bar)
            if self._line:
                self._live.console.print(self._line, markup=False, highlight=False, soft_wrap=True)
            self._live.stop()
        else:
            self._log(f"{self._what}: {self._done} {self._unit} · {self._rate():.3g} {self._unit}/s")
        self._out.flush()

    def say(self, text: str) -> None:
        """Shows more text."""
        if not (self._live and self._out.isatty()):
            self._out.write(text)
            self._out.flush()
            return
        *whole, self._line = (self._line + text).split("\n")
        if whole:
            self._live.console.print("\n".join(whole), markup=False, highlight=False, soft_wrap=True)
        self._live.update(Group(Text(self._line), self._bar))

    def count(self, more: int) -> None:
        """So many more are made."""
        now = time.monotonic()
        self._done += more
        self._first = self._first or (now, self._done)
        left = (self._total - self._done) / rate if (rate := self._rate()) else 0.0
        status = f"{rate:.3g} {self._unit}/s · {left:.0f} s left"
        if self._live:
            self._bar.update(self._task, completed=self._done, status=status)
        elif now - self._shown > _SECONDS and self._done < self._total:
            self._shown = now
            self._log(f"{self._what}: {self._done} of {self._total} {self._unit} · {status}")

    def _rate(self) -> float:
        """How many a second, since the first ones if there are more."""
        now = time.monotonic()
        start, before = self._first or (self._started, 0)
        if self._done == before:
            start, before = self._started, 0
        return (self._done - before) / max(now - start, 1e-6)

    def _log(self, line: str) -> None:
        print(line, file=self._err, flush=True)
