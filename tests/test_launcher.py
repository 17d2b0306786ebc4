"""What the verbs start with."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from lwm import launcher
from lwm.errors import UserError

THREADS = """
import os, sys
from absl import flags
from lwm import launcher
flags.FLAGS(["verb", "--cpu_devices=3"])
launcher.start_devices()
import jax
devices = jax.devices()
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(len(devices), len([name for name in names if name == "tf_XLAEigen"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the names of threads from /proc")
def test_virtual_devices_have_threads_to_wait_in():
    """One a device would be XLA's default; devices that wait in four collectives at once need four."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "12"]


@pytest.fixture
def joined(monkeypatch):
    """`joined(platforms, **variables)`: what `jax.distributed.initialize` is given on such a machine."""

    def start(platforms=None, **variables):
        for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
            monkeypatch.delenv(f"JAX_{name}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"JAX_{name}", value)
        calls = []
        monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: calls.append(args))
        monkeypatch.setattr(jax, "config", SimpleNamespace(jax_platforms=platforms))
        monkeypatch.setattr(launcher, "CPU_DEVICES", SimpleNamespace(value=0))
        launcher.start_devices()
        return calls

    return start


def test_hosts_are_joined_by_variables_or_by_the_tpu_itself(joined):
    pod = {"NUM_PROCESSES": "4", "PROCESS_ID": "3", "COORDINATOR_ADDRESS": "host0:1234"}
    assert joined() == joined("cpu") == []
    assert joined("tpu,cpu") == joined("tpu") == [()]
    assert joined("cpu", **pod) == joined("tpu", **pod) == [("host0:1234", 4, 3)]
    assert joined("tpu,cpu", NUM_PROCESSES="1") == []


@pytest.mark.parametrize(
    "variables, field",
    [
        ({"NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES: 'two'"),
        ({"NUM_PROCESSES": "0"}, "JAX_NUM_PROCESSES: '0'"),
        ({"NUM_PROCESSES": "2"}, "JAX_PROCESS_ID: ''"),
        ({"NUM_PROCESSES": "2", "PROCESS_ID": "2"}, "JAX_PROCESS_ID: '2' is no number from 0 to 1"),
        ({"NUM_PROCESSES": "2", "PROCESS_ID": "1"}, "JAX_COORDINATOR_ADDRESS: ''"),
        (
            {"NUM_PROCESSES": "2", "PROCESS_ID": "1", "COORDINATOR_ADDRESS": "host0"},
            "JAX_COORDINATOR_ADDRESS",
        ),
    ],
)
def test_a_host_that_cannot_be_joined_is_told_why(joined, variables, field):
    with pytest.raises(UserError, match=field):
        joined(**variables)


LEAVES = """
import sys, time
from types import SimpleNamespace
from lwm import launcher
from lwm.errors import UserError
sys.modules["jax"] = SimpleNamespace(distributed=SimpleNamespace(is_initialized=lambda: True))
launcher.PARTING = 0
try:
    with launcher._leaving_soon():
        raise UserError("disk: full; free some")
finally:
    time.sleep(600)  # as at JAX's barrier
"""


def test_a_host_that_failed_does_not_wait_for_the_others():
    assert subprocess.run([sys.executable, "-c", LEAVES], timeout=60).returncode == 2
