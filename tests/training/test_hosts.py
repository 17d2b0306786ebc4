"""Any number of hosts, whose processes find each other as on a pod, train as one, and go on for another."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lwm.training.metrics import read_rows

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORKER = """
import faulthandler, sys
faulthandler.dump_traceback_later(240, exit=True)
import conftest
from absl import flags
from lwm import launcher
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from test_hosts import CONFIG
flags.FLAGS(sys.argv[:1])
launcher.start_devices()
train(
    build_experiment(CONFIG), sys.argv[1], build_model=lambda stage: conftest.Bag(conftest.BagConfig()),
    manifest=conftest.MANIFEST, open_batches=conftest.Stream,
)
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


def pod(hosts, workdir):
    """Trains on so many hosts with eight devices together; what host 0 and the last one said."""
    logs = workdir.parent / f"{workdir.name}_logs"
    command = [ROOT / "launch" / "local_pod.sh", str(hosts), str(8 // hosts), "--"]
    command += [sys.executable, "-c", WORKER, str(workdir)]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{HERE}", "LOCAL_POD_LOGS": str(logs)}
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, (logs / f"host_{hosts - 1}.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_are_one(hosts, tmp_path, run):
    run(CONFIG, tmp_path / "one")
    first, last = pod(hosts, tmp_path / "many")
    assert "step 40/40" in first and "step" not in last
    assert run(CONFIG, tmp_path / "mixed", ("rows", 25)) == "cut"
    pod(hosts, tmp_path / "mixed")
    rows = {name: read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "many", "mixed")}
    for name in ("many", "mixed"):
        assert [row["step"] for row in rows[name]] == [row["step"] for row in rows["one"]]
        for own, expected in zip(rows[name], rows["one"], strict=True):
            for metric in ("loss", "text_nll"):
                np.testing.assert_allclose(own[metric], expected[metric], rtol=1e-4)
