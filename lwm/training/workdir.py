"""Which run a folder belongs to: WORKDIR/config.json, and whether a config may go on with it."""

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from etils import epath

from lwm import json_text
from lwm.errors import UserError
from lwm.json_text import check_fields
from lwm.limits import suggest
from lwm.training.checkpoints import latest_stage, latest_step, stage_folder
from lwm.training.stages import Axes, Stage

RESUME = ("auto", "never", "must")
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)
_OWN = ("experiment", "model", "init", "seed", "optimizer")  # what makes a run the run it is
_FREE = ("mesh", "accumulate", "eval_every", "eval_batches", "checkpoint_every")  # may change within a stage
# What a stage had that was begun before there was such a field.
_DEFAULTS = json.loads(json.dumps(dataclasses.asdict(Stage("", 0, 0.0, Axes()))))


def check_workdir(workdir: epath.PathLike, config: dict) -> None:
    """Checks that a folder is new or holds an earlier part of the same run; writes nothing.

    Stages with a checkpoint keep their settings, except for what depends on the machine or on how closely one
    looks (mesh, accumulate, evaluation, checkpoints); later stages, paths and logging are free.

    Args:
      config: an `Experiment` as nested dicts.

    Raises:
      UserError: the folder holds another run, or something that is no run at all; or it is below a file.
    """
    workdir = epath.Path(workdir)
    there = _nearest(workdir)
    if there.exists() and not there.is_dir():
        raise UserError(f"workdir: {workdir} is not possible, {there} is a file; choose a folder")
    path = workdir / "config.json"
    if not path.exists():
        for name in ("stages", "metrics.jsonl"):
            if (workdir / name).exists():
                raise UserError(f"workdir: {workdir} holds {name} but no config.json; choose another folder")
        return
    before, now = read_config(workdir), json.loads(json.dumps(config))
    for field in _OWN:
        _compare(workdir, f"config.{field}", before.get(field), now[field])
    stages = list(now["stages"])
    for index, (name, block) in enumerate(before["stages"].items()):
        if latest_step(stage_folder(workdir, index, name)) is None:
            continue
        if index >= len(stages) or stages[index] != name:
            found = stages[index] if index < len(stages) else None
            raise _changed(workdir, f"config.stages, number {index}", name, found)
        for field, value in now["stages"][name].items():
            if field not in _FREE:
                started = block.get(field, _DEFAULTS.get(field))
                _compare(workdir, f"config.stages.{name}.{field}", started, value)


def check_resume(workdir: epath.PathLike, resume: str, stages: Iterable[str]) -> None:
    """Checks that a folder that `check_workdir` has accepted is as new, or as old, as is wanted.

    Args:
      resume: "never" = it must not hold a run; "must" = it must hold a checkpoint; "auto" = as it is.
      stages: their names, in order.

    Raises:
      UserError: it is not.
    """
    workdir = epath.Path(workdir)
    if resume not in RESUME:
        raise UserError(f"resume: {resume!r} is not known; {suggest(resume, RESUME)}")
    if resume == "never" and (workdir / "config.json").exists():
        raise UserError(
            f"resume: never, but {workdir} holds a run; choose another --workdir, or --resume=auto to go on"
        )
    if resume == "must" and latest_stage(workdir, list(stages)) is None:
        raise UserError(
            f"resume: must, but {workdir} has no checkpoint; correct --workdir, or --resume=auto to begin"
        )


def check_writable(workdir: epath.PathLike) -> None:
    """Checks that a local folder, or the one that it is to be made in, may be written to.

    Raises:
      UserError: it is read-only, for this user or for all.
    """
    there = _nearest(epath.Path(workdir))
    if "://" not in str(workdir) and not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"workdir: {there} is read-only; make it writable or choose another folder")


@contextlib.contextmanager
def writing(workdir: epath.PathLike) -> Iterator[None]:
    """Turns what the disk refuses into one line.

    Raises:
      UserError: it is full, read-only or not for this user; what was saved before stays.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise UserError(
            f"{error.filename or workdir}: {error.strerror}; mend that and run the same command again: it "
            "goes on from the last checkpoint"
        ) from error


def read_config(workdir: epath.PathLike) -> dict:
    """Reads config.json.

    Raises:
      UserError: it is not one of ours.
    """
    path = epath.Path(workdir) / "config.json"
    try:
        config = json_text.read(path)
    except ValueError:
        config = None
    if not isinstance(config, dict) or not {"experiment", "model", "stages"} <= config.keys():
        raise UserError(f"workdir: {path} was not written by lwm.train; choose another folder")
    check_fields(path, config, {"model": dict, "stages": dict[str, dict]}, needs=("model", "stages"))
    return config


def write_config(workdir: epath.PathLike, config: dict) -> None:
    """Writes config.json; checkpoints keep the config that they were made with."""
    write_json(epath.Path(workdir) / "config.json", config)


def write_json(path: epath.Path, content: dict) -> None:
    """Writes a file, whole or not at all, and the folders that lead to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f"{path.name}.part"
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.replace(path)


def _nearest(path: epath.Path) -> epath.Path:
    """The path itself, or the closest folder above it that is there."""
    while "://" not in str(path) and not path.exists() and path != path.parent:
        path = path.parent
    return path


def _compare(workdir: epath.Path, field: str, before: Any, now: Any) -> None:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before | now:
            _compare(workdir, f"{field}.{name}", before.get(name), now.get(name))
    elif before != now:
        raise _changed(workdir, field, before, now)


def _changed(workdir: epath.Path, field: str, before: Any, now: Any) -> UserError:
    return UserError(
        f"{field}: {now!r}, but {workdir} was begun with {before!r}; change it back or use another --workdir"
    )
