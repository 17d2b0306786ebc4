"""What the hosts of a pod make of one that hangs, and of one that was started differently."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwm.training.watch import HUNG

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORKER = """
import faulthandler, json, os, sys, threading
faulthandler.dump_traceback_later(400, exit=True)
import conftest
from absl import flags
from lwm import launcher
from lwm.errors import UserError
from lwm.training.experiment import build_experiment
from lwm.training.loop import train

class Stuck(conftest.Stream):
    def __next__(self):
        if self.index == 3 and sys.argv[3] == "stuck" and os.environ["JAX_PROCESS_ID"] == "1":
            threading.Event().wait()
        return super().__next__()

flags.FLAGS(sys.argv[:1])
launcher.start_devices()
config = json.loads(sys.argv[2])
if sys.argv[3] == "other" and os.environ["JAX_PROCESS_ID"] == "1":
    config["seed"] = 7
try:
    train(
        build_experiment(config), sys.argv[1], manifest=conftest.MANIFEST, open_batches=Stuck,
        build_model=lambda stage: conftest.Bag(conftest.BagConfig()),
    )
except UserError as error:
    print(error, flush=True)
    os._exit(2)
"""


def pod(workdir, config, host):
    """Two hosts, the second one of this kind; the code of the pod, and what each host said."""
    command = [ROOT / "launch" / "local_pod.sh", "2", "4", "--", sys.executable, "-c", WORKER]
    command += [str(workdir), json.dumps(config), host]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{HERE}", "LOCAL_POD_LOGS": f"{workdir}_logs"}
    done = subprocess.run(command, cwd=HERE, env=env, capture_output=True, text=True, timeout=900)
    return done, [Path(f"{workdir}_logs/host_{index}.log").read_text() for index in (0, 1)]


@pytest.mark.slow
def test_a_pod_with_a_host_that_hangs_ends_and_says_which(tmp_path, config_of):
    """Host 1 gets no fourth batch; host 0 waits for it in the step that needs it."""
    config = config_of({"a": {"steps": 9}}, guards={"hang_minutes": 0.1})
    done, said = pod(tmp_path / "run", config, "stuck")
    assert done.returncode == HUNG, done.stdout + done.stderr + said[0] + said[1]
    told = "".join(path.read_text() for path in (tmp_path / "run/hosts").glob("*.txt"))
    assert "no progress for" in told and "Thread 0x" in told
    beats = [json.loads((tmp_path / f"run/hosts/{index}.json").read_text()) for index in (0, 1)]
    assert [beat["index"] for beat in beats] == [0, 1]


@pytest.mark.slow
def test_a_pod_whose_hosts_are_not_of_one_mind_does_not_begin(tmp_path, config_of):
    done, said = pod(tmp_path / "run", config_of({"a": {"steps": 2}}), "other")
    assert done.returncode == 2
    for text in said:
        assert "host 1 (" in text and "): config " in text and "with the same config on all hosts" in text
    assert not (tmp_path / "run").exists()
