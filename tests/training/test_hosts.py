"""Two processes of four devices each train as one process of eight does, and each can go on for the other."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lwm.training.metrics import read_rows

HERE = Path(__file__).resolve().parent
WORKER = """
import faulthandler, sys
faulthandler.dump_traceback_later(240, exit=True)
import jax
workdir, port, host = sys.argv[1], sys.argv[2], int(sys.argv[3])
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, host)
import conftest
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from test_hosts import CONFIG
train(
    build_experiment(CONFIG), workdir, build_model=lambda stage: conftest.Bag(conftest.BagConfig()),
    manifest=conftest.MANIFEST, open_batches=conftest.Stream, stop_after=sys.argv[4],
)
jax.distributed.shutdown()
"""
STAGE = dict(context_length=16, batch_tokens=128, learning_rate=0.01, mixture={"text": 1.0}, eval_every=10)
CONFIG = {
    "experiment": "hosts",
    "model": {},
    "log_every": 1,
    "stages": {
        # Rows on either host; then one ring around both, so that both make the same rows.
        "rows": STAGE | dict(steps=40, checkpoint_every=20, mesh={"data": 2, "fsdp": 4}),
        "ring": STAGE | dict(steps=3, mesh={"seq": 8}),
    },
}


def two_hosts(workdir, stop_after):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-c", WORKER, str(workdir), port]
    settings = dict(cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    settings["env"] = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{HERE.parents[1]}:{HERE}"}
    hosts = [subprocess.Popen([*command, str(host), stop_after], **settings) for host in range(2)]
    shown = [host.communicate(timeout=300)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(shown)
    return shown


@pytest.mark.slow
def test_two_hosts_are_one(tmp_path, run):
    run(CONFIG, tmp_path / "one")
    first, second = two_hosts(tmp_path / "two", "")
    assert "step 40/40" in first and "step" not in second
    assert run(CONFIG, tmp_path / "mixed", ("rows", 25)) == "cut"
    two_hosts(tmp_path / "mixed", "")
    rows = {name: read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "two", "mixed")}
    for name in ("two", "mixed"):
        assert [row["step"] for row in rows[name]] == [row["step"] for row in rows["one"]]
        for own, expected in zip(rows[name], rows["one"], strict=True):
            for metric in ("loss", "text_nll"):
                np.testing.assert_allclose(own[metric], expected[metric], rtol=1e-4)
