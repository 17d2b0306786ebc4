"""How far training is: a bar on a terminal, plain lines with the same fields in a log."""

import sys
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class Report:
    """Shows one stage at a time; silent on all hosts but the first. Use as a context manager."""

    def __init__(self, *, silent: bool = False, stream: TextIO | None = None):
        stream = stream or sys.stdout
        self._stream, self._silent = stream, silent
        self._bar: Progress | None = None
        self._task = None
        if stream.isatty() and not silent:
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
            )
            self._bar = Progress(*columns, console=Console(file=stream))

    def __enter__(self) -> "Report":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *failure) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bar:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif not self._silent:
            print(text, file=self._stream, flush=True)

    def begin(self, stage: str, step: int, steps: int) -> None:
        """A stage begins at `step`."""
        if self._bar:
            self._task = self._bar.add_task(stage, completed=step, total=steps, status="compiling")

    def update(self, row: dict, steps: int, unit: str, *, logged: bool) -> None:
        """After every step.

        Args:
          row: of metrics.jsonl: "stage", "step", "loss", "<unit>_per_second", and "eta" in seconds.
          steps: of the stage.
          unit: "tokens" or "images".
          logged: whether a log gets a line for this step; a bar always moves.
        """
        speed = rate(row[f"{unit}_per_second"])
        status = f"loss {row['loss']:.4f} · {speed} {unit}/s · {clock(row['eta'])} left"
        if self._bar:
            self._bar.update(self._task, completed=row["step"], status=status)
        elif logged:
            self.say(f"{row['stage']} · step {row['step']}/{steps} · {status}")


def rate(value: float) -> str:
    """Of so many units a second."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
