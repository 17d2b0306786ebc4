"""The rows of metrics.jsonl on a TensorBoard or at Weights & Biases as well: only if asked for, by one host.

    WORKDIR/tensorboard/          event files, for `tensorboard --logdir=WORKDIR`
    WORKDIR/boards/<name>.json    how far a board is, and by which id W&B knows the run

A board gets every row once: one that a run writes again, as it goes on from a checkpoint or goes back from a
spike, is not sent again; one that a board lacks, as it was asked for late, is sent when the run goes on.
"""

import dataclasses
import importlib.util
import itertools
import os
import secrets
from collections.abc import Callable, Collection, Sequence
from typing import Any

from etils import epath

from lwm import json_text
from lwm.errors import UserError
from lwm.limits import suggest
from lwm.training.experiment import Experiment
from lwm.training.metrics import read_rows
from lwm.training.workdir import write_json

Board = tuple[Callable[[int, dict[str, float]], None], Callable[[], None]]  # write(step, values), close()


def _tensorboard(workdir: epath.Path, experiment: Experiment, own: str) -> Board:
    from tensorboard.summary import Writer

    try:
        writer = Writer(str(workdir / "tensorboard"))
    except (ImportError, ValueError) as error:  # for a bucket it needs other packages
        raise UserError(
            f"boards: tensorboard: {error}; install what that asks for, or leave it out"
        ) from error

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write, writer.close


def _wandb(workdir: epath.Path, experiment: Experiment, own: str) -> Board:
    import wandb

    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lwm"),
            group=experiment.experiment,
            name=workdir.name,
            id=own,
            resume="allow",
            config=dataclasses.asdict(experiment),
            dir=None if "://" in str(workdir) else str(workdir),
        )
    except wandb.Error as error:
        line = " ".join(str(error).split())
        raise UserError(f"boards: wandb: {line}; call `wandb login`, or set WANDB_MODE=offline") from error
    # Steps of its own: those of W&B would have to rise from row to row.
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    return lambda step, values: run.log({"step": step, **values}), run.finish


BOARDS = {"tensorboard": _tensorboard, "wandb": _wandb}  # by the name of the package, and of the extra


def check_boards(names: Collection[str]) -> None:
    """Imports nothing.

    Raises:
      UserError: there is no such board, or its package is not installed.
    """
    for name in names:
        if name not in BOARDS:
            raise UserError(f"boards: {name!r} is not known; {suggest(name, BOARDS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"boards: {name} is not installed; call pip install -e '.[{name}]', or leave it out"
            )


class Boards:
    """Those of a run, none or some."""

    def __init__(self, names: Sequence[str], workdir: epath.Path, experiment: Experiment):
        """Opens them and sends what they lack.

        Args:
          workdir: exists.

        Raises:
          UserError: W&B does not know the user, or TensorBoard not the file system.
        """
        steps = [stage.steps for stage in experiment.stages.values()]
        self._starts = dict(zip(experiment.stages, itertools.accumulate(steps, initial=0), strict=False))
        self._folder, self._marks, self._boards = workdir / "boards", {}, {}
        rows = read_rows(workdir / "metrics.jsonl") if names else []
        for name in names:
            self._marks[name] = self._read_mark(name)
            self._boards[name] = BOARDS[name](workdir, experiment, self._marks[name]["id"])
        for row in rows:
            self.send(row)

    def send(self, row: dict[str, Any]) -> None:
        """A row's numbers, "train/loss" and so on, at its step, counted through all stages."""
        kind, start = str(row.get("kind")), self._starts.get(row["stage"])
        if start is None:
            return
        step = start + row["step"]
        values = {f"{kind}/{name}": value for name, value in row.items() if name != "step"}
        values = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        for name, (write, _) in self._boards.items():
            mark = self._marks[name]
            if step > mark["sent"].get(kind, -1):
                write(step, values)
                mark["sent"][kind] = step
                write_json(self._folder / f"{name}.json", mark)

    def close(self) -> None:
        """Waits until all is sent."""
        for _, close in self._boards.values():
            close()

    def _read_mark(self, name: str) -> dict[str, Any]:
        try:
            mark = json_text.read(self._folder / f"{name}.json")
            sent = {str(kind): int(step) for kind, step in mark["sent"].items()}
            return {"id": str(mark["id"]), "sent": sent}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {"id": secrets.token_hex(4), "sent": {}}
