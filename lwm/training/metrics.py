"""Means of metrics over batches; and the file that keeps them, WORKDIR/metrics.jsonl, one JSON a line."""

import json
import os
from collections.abc import Iterable
from typing import Any

from etils import epath

from lwm import json_text

Metrics = dict[str, Any]


def weighted(metrics: Metrics) -> Metrics:
    """The metrics of one batch as summands: added up over batches, `mean` gives those of all of them.

    "denominator" and counts ("x_tokens", "count_x") add up as they are; "x_nll" is a mean over its
    "x_tokens", "loss_x" and "accuracy_x" over their "count_x"; all else is a mean over the "denominator".
    Works on arrays and numbers, under `jit` or not.
    """
    return {name: value * _weight(name, metrics) for name, value in metrics.items()}


def mean(totals: Metrics) -> Metrics:
    """The inverse of `weighted` on a sum of summands; a mean over nothing is 0."""
    return {name: value / _weight(name, totals, empty=1e-9) for name, value in totals.items()}


def _weight(name: str, metrics: Metrics, empty: float = 0.0) -> Any:
    if name == "denominator" or name.endswith("_tokens") or name.startswith("count_"):
        return 1.0
    own = f"{name.removesuffix('_nll')}_tokens" if name.endswith("_nll") else ""
    if name.startswith(("loss_", "accuracy_")):
        own = f"count_{name.partition('_')[2]}"
    weight = metrics[own if own in metrics else "denominator"]
    return weight + empty * (weight == 0)


class MetricsLog:
    """Appends rows to metrics.jsonl, and takes back those that a resumed run will write again.

    A row is {"kind": "train" | "eval" | "skip" | "rewind", "stage", "step", …}; it is on disk when `append`
    returns.

    Attributes:
      boards: `boards.Boards`, which are sent each row as well; None = none.
    """

    def __init__(self, path: os.PathLike | str):
        self.path, self.boards = epath.Path(path), None

    def close(self) -> None:
        if self.boards:
            self.boards.close()

    def append(self, row: Metrics) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.boards:
            self.boards.send(row)

    def rewind(self, earlier_stages: Iterable[str], stage: str, step: int) -> float:
        """Keeps the rows of earlier stages and, up to `step`, of `stage`; drops all others and broken lines.

        Returns:
          "seconds" of the last row that stays, 0.0 if none has it.
        """
        if not self.path.exists():
            return 0.0
        text = self.path.read_bytes()
        rows = [row for line in text.splitlines() if (row := _parse(line)) is not None]
        earlier = set(earlier_stages)
        rows = [
            row for row in rows if row["stage"] in earlier or row["stage"] == stage and row["step"] <= step
        ]
        kept = "".join(json.dumps(row) + "\n" for row in rows)
        if kept.encode() != text:
            temporary = self.path.parent / (self.path.name + ".tmp")
            temporary.write_text(kept)
            temporary.replace(self.path)
        return max((row.get("seconds", 0.0) for row in rows), default=0.0)


def read_rows(path: os.PathLike | str) -> list[Metrics]:
    """All complete rows of a metrics.jsonl; empty if there is none yet."""
    path = epath.Path(path)
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [row for line in lines if (row := _parse(line)) is not None]


def _parse(line: bytes) -> Metrics | None:
    try:
        row = json_text.loads(line)
    except ValueError:
        return None  # the line that was being written when the power went
    ours = isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int)
    return row if ours and isinstance(row.get("seconds", 0.0), int | float) else None
