"""What is told of a run, from files that look as training leaves them; and that JAX is not needed for it."""

import json
import os
import subprocess
import sys

import pytest

from lwm.errors import UserError
from lwm.training.heartbeats import Beat
from lwm.training.status import status

NOW = 2_000_000_000.0
STAGE = {"context_length": 16, "batch_tokens": 128, "batch_size": 0}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def workdir(tmp_path):
    """A run of three stages in its second one, on three hosts of which one hangs."""
    stages = {"a": STAGE | {"steps": 10}, "b": STAGE | {"steps": 40}, "c": STAGE | {"steps": 5}}
    write(tmp_path / "config.json", {"experiment": "miniature", "stages": stages})
    write(tmp_path / "starts/2.json", {"processes": 3})
    write(tmp_path / "starts/1.json", {"processes": 8})
    rate = {"tokens_per_second": 64.0, "seconds": 9.0}
    rows = [{"kind": "train", "stage": "a", "step": 10, "loss": 2.0, **rate}]
    rows += [{"kind": "eval", "stage": "b", "step": 15, "loss": 1.75}]
    rows += [{"kind": "train", "stage": "b", "step": 20, "loss": 1.5, "mfu": 0.451, **rate}]
    rows += [{"kind": "skip", "stage": "b", "step": 21, "skipped": 1}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("0_a/10", "1_b/9", "1_b/18", "1_b/20.orbax-checkpoint-tmp-1"):
        (tmp_path / "stages" / name).mkdir(parents=True)
        os.utime(tmp_path / "stages" / name, (NOW - 125, NOW - 125))
    for index, (step, heard) in enumerate([(21, 1), (20, 2), (21, 99)]):
        beat = Beat(index, f"h{index}", "b", 1, step, "in_steps", NOW - 100, NOW - heard)
        write(tmp_path / f"hosts/{index}.json", beat._asdict())
    (tmp_path / "offending/b_21").mkdir(parents=True)
    return tmp_path


def test_a_run_under_way(workdir):
    assert status(workdir, NOW) == [
        f"miniature · {workdir}",
        "a · done, 10 steps · loss 2.0000 · checkpoint of step 10, 2:05 ago",
        "b · step 21 of 40 · loss 1.5000 · 64 tokens/s · 0:38 left · MFU 45.1% · held-out loss 1.7500 · "
        "checkpoint of step 18, 2:05 ago",
        "c · step 0 of 5",
        "skipped 1 steps, the last one 21 of b",
        f"offending batches in {workdir}/offending: b_21",
        "hosts: 2 of 3 running, last heard of 0:01 ago",
        "  behind: host 1 (h1) at step 20 of b, in_steps",
        "  behind: host 2 (h2) at step 21 of b, in_steps, silent for 99 s",
    ]


def test_a_run_that_has_not_written_anything_yet(tmp_path):
    write(tmp_path / "config.json", {"experiment": "new", "stages": {"a": STAGE | {"steps": 10}}})
    assert status(tmp_path, NOW)[1:] == ["a · step 0 of 10", "hosts: none has been heard of"]


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"experiment": "x"}', '{"experiment": "x", "stages": {"a": {}}}']
)
def test_a_folder_that_holds_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=f"workdir: {tmp_path} holds no run"):
        status(tmp_path)


def test_a_start_that_cannot_be_read_counts_as_one_host(workdir):
    (workdir / "starts/2.json").write_text('{"processes": ')
    assert status(workdir, NOW)[6] == "hosts: 1 of 1 running, last heard of 0:01 ago"


def test_the_verb_needs_no_jax(workdir):
    code = "import runpy, sys; sys.modules['jax'] = None; runpy.run_module('lwm.train', run_name='__main__')"
    command = [sys.executable, "-c", code, "--status", f"--workdir={workdir}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "b · step 21 of 40" in done.stdout, done.stderr
