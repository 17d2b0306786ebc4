"""Where a run stands, from the files in its workdir alone: no JAX, no device, and nothing is written."""

import time
from collections.abc import Iterator
from typing import Any

from etils import epath

from lwm import json_text
from lwm.errors import UserError
from lwm.training.heartbeats import SILENT, laggards, read_beats
from lwm.training.metrics import read_rows
from lwm.training.progress import clock, rate

_SHOWN = 8  # lines at most about hosts, and folders named at most


def status(workdir: epath.PathLike, now: float | None = None) -> list[str]:
    """A screenful of lines about a run.

    Args:
      now: seconds since 1970, None = the clock's.

    Raises:
      UserError: the folder holds no run.
    """
    workdir, now = epath.Path(workdir), time.time() if now is None else now
    config = _config(workdir)
    rows = read_rows(workdir / "metrics.jsonl")
    return [
        f"{config['experiment']} · {workdir}",
        *_stages(workdir, config["stages"], rows, now),
        *_skips(workdir, rows),
        *_hosts(workdir, now),
    ]


def _config(workdir: epath.Path) -> dict[str, Any]:
    path = workdir / "config.json"
    try:
        config = json_text.read(path)
        steps = [int(stage["steps"]) for stage in config["stages"].values()]
        if not isinstance(config["experiment"], str) or not steps:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"workdir: {workdir} holds no run (no config.json of lwm.train); give the folder of one"
        ) from error
    return config


def _stages(workdir: epath.Path, stages: dict, rows: list[dict], now: float) -> Iterator[str]:
    for index, (name, stage) in enumerate(stages.items()):
        own = [row for row in rows if row["stage"] == name]
        train = [row for row in own if row.get("kind") == "train"]
        saved = _saved(workdir / "stages" / f"{index}_{name}")
        steps, step = stage["steps"], max([own[-1]["step"] if own else 0, saved[0] if saved else 0])
        words = [f"{name} · step {step:,} of {steps:,}"]
        if saved and saved[0] >= steps:
            words = [f"{name} · done, {steps:,} steps"]
        if train:
            words += _pace(stage, train[-1], steps - step)
        if evaluations := [row for row in own if row.get("kind") == "eval"]:
            words.append(f"held-out loss {evaluations[-1]['loss']:.4f}")
        if saved:
            words.append(f"checkpoint of step {saved[0]:,}, {clock(max(now - saved[1], 0))} ago")
        elif own:
            words.append("no checkpoint yet")
        yield " · ".join(words)


def _pace(stage: dict, row: dict, left: int) -> Iterator[str]:
    yield f"loss {row['loss']:.4f}"
    for name, value in row.items():
        if name.endswith("_per_second") and value > 0 and left > 0:
            units = stage["batch_tokens"] if stage["context_length"] else stage["batch_size"]
            yield f"{rate(value)} {name.removesuffix('_per_second')}/s"
            yield f"{clock(left * units / value)} left"
    if "mfu" in row:
        yield f"MFU {row['mfu']:.1%}"


def _saved(folder: epath.Path) -> tuple[int, float] | None:
    """The newest complete checkpoint of a stage, and when it was completed."""
    found = [path for path in folder.iterdir() if path.name.isdecimal()] if folder.exists() else []
    newest = max(found, key=lambda path: int(path.name), default=None)
    return (int(newest.name), newest.stat().mtime) if newest else None


def _skips(workdir: epath.Path, rows: list[dict]) -> Iterator[str]:
    if skipped := [row for row in rows if row.get("kind") == "skip"]:
        last = skipped[-1]
        yield f"skipped {len(skipped)} steps, the last one {last['step']} of {last['stage']}"
    if rewinds := [row for row in rows if row.get("kind") == "rewind"]:
        last = rewinds[-1]
        times, spike = len(rewinds), f"step {last.get('spike')} of {last['stage']}"
        yield f"went back {times} times from a spike, the last time from {spike} to {last['step']}"
    folder = workdir / "offending"
    if names := sorted(path.name for path in folder.iterdir()) if folder.exists() else []:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"offending batches in {folder}: {', '.join(names[:_SHOWN])}{more}"


def _started(workdir: epath.Path) -> int:
    """Hosts that the run was last started on; 1 if nothing readable tells."""
    starts = sorted((workdir / "starts").glob("*.json")) if (workdir / "starts").exists() else []
    try:
        return int(json_text.read(starts[-1])["processes"])
    except (IndexError, OSError, ValueError, KeyError, TypeError):
        return 1


def _hosts(workdir: epath.Path, now: float) -> Iterator[str]:
    hosts = _started(workdir)
    beats = [beat for beat in read_beats(workdir) if beat.index < hosts]
    if not beats:
        yield "hosts: none has been heard of"
        return
    running = [beat for beat in beats if beat.doing != "ended" and now - beat.time <= SILENT]
    heard = clock(max(now - max(beat.time for beat in beats), 0))
    yield f"hosts: {len(running)} of {hosts} running, last heard of {heard} ago"
    if not running:
        yield from (f"  {beat}" for beat in beats[:_SHOWN])
        return
    behind = laggards(beats, hosts, now)
    yield from (f"  behind: {line}" for line in behind[:_SHOWN])
    if len(behind) > _SHOWN:
        yield f"  behind: {len(behind) - _SHOWN} more"
    hung = sorted(path.name for path in (workdir / "hosts").glob("*.txt"))
    if hung:
        yield f"  hung before, see hosts/: {', '.join(hung[:_SHOWN])}"
