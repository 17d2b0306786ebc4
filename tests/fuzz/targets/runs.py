"""What a run reads and leaves: configs, metrics, tables, texts."""

import contextlib
import dataclasses
import json
from pathlib import Path

from experiments import sweeps
from lwm.errors import UserError
from lwm.evaluation.workdirs import read_rows, read_run
from lwm.scaling.runs_table import read_runs
from lwm.serving.attachments import MARK, placed, read_text
from lwm.serving.sampling import model_name
from lwm.training import metrics
from lwm.training.checkpoints import load_params
from lwm.training.validation import validate
from lwm.training.workdir import check_workdir, read_config
from tests.fuzz.target import Target

_STAGE = {
    "context_length": 64,
    "batch_tokens": 128,
    "steps": 4,
    "learning_rate": 0.01,
    "mixture": {"text": 1.0},
    "mesh": {"data": 2},
}
_CONFIG = {
    "experiment": "x",
    "model": {"name": "lwm", "size": "debug"},
    "init": "",
    "seed": 0,
    "optimizer": {"b1": 0.9},
    "data": {"path": "/a"},
    "stages": {"a": _STAGE, "b": _STAGE | {"rope_theta": 5e4}},
}
_PICTURES = {"batch_size": 8, "steps": 4, "learning_rate": 0.01, "mesh": {}}
_VQGAN = {"experiment": "y", "model": {"name": "vqgan", "size": "tiny"}, "stages": {"a": _PICTURES}}
_ROWS = (
    {
        "kind": "train",
        "stage": "a",
        "step": 1,
        "loss": 2.5,
        "tokens": 128,
        "seconds": 0.5,
        "tokens_per_second": 9.0,
    },
    {"kind": "eval", "stage": "a", "step": 4, "loss": float("nan"), "tokens": 512, "seconds": 2.0},
)
_NUMBERS = ({"name": "psnr", "value": 20.0, "unit": "dB", "baseline": None, "n": 3, "stage": "a"},)
_TABLE = "parameters,tokens,loss,arm\n1e6,2e8,3.5,a\n2e6,4e8,3.25,b\n"


def _json_lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _metrics(path: Path) -> None:
    metrics.read_rows(path)
    metrics.MetricsLog(path).rewind(["z"], "a", 2)


def _written() -> dict:
    """A config as it is written down: every default is filled in."""
    return dataclasses.asdict(validate(_CONFIG))


def _lay_run(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(_written()))
    (folder / "metrics.jsonl").write_bytes(_json_lines(_ROWS))


def _workdir(path: Path) -> None:
    model_name(path.parent)
    read_config(path.parent)
    check_workdir(path.parent, _written())
    with contextlib.suppress(UserError):  # there is no checkpoint
        load_params(path.parent)


def _validate(path: Path) -> None:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return  # a config is no JSON; what can be wrong with JSON has nothing to do with it
    validate(config)


def _sweep(path: Path) -> None:
    table = sweeps.Table(path, ("arm", "loss", "parameters", "tokens"), ("arm",))
    table.has(arm="a")
    table.write()


def _prompt(path: Path) -> None:
    text = read_text("prompt_file", str(path))
    placed(text, [])
    [line.encode("utf-8") for line in text.splitlines()]


def _run(path: Path) -> None:
    read_run(path.parent, {})


TARGETS = (
    Target(
        "config",
        "x.json",
        lambda: [json.dumps(one).encode() for one in (_CONFIG, _VQGAN)],
        _validate,
        10,
        many=True,
    ),
    Target("workdir", "config.json", lambda: [json.dumps(_written()).encode()], _workdir, 10, many=True),
    Target("metrics", "metrics.jsonl", lambda: [_json_lines(_ROWS)], _metrics, 20),
    Target(
        "summary_config", "config.json", lambda: [json.dumps(_written()).encode()], _run, 10, lay=_lay_run
    ),
    Target("summary_metrics", "metrics.jsonl", lambda: [_json_lines(_ROWS)], _run, 10, lay=_lay_run),
    Target("summary_numbers", "evaluation.jsonl", lambda: [_json_lines(_NUMBERS)], _run, 10, lay=_lay_run),
    Target("log", "x.jsonl", lambda: [_json_lines(_NUMBERS)], read_rows, 10),
    Target("runs_table", "x.csv", lambda: [_TABLE.encode()], read_runs, 20),
    Target("sweep_table", "x.csv", lambda: [_TABLE.encode()], _sweep, 15),
    Target("prompt", "x.txt", lambda: [f"Look at {MARK} this.\nAnd that.\n".encode()], _prompt, 10),
)
