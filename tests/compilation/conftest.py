"""The TPU compiler belongs to one process at a time: each case has its own, one after another."""

import fcntl
import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# JAX loads libtpu, where it is installed, in the scripts of other tests as well.
BESIDE = {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


@functools.cache
def _run(code: str):
    with open(os.path.join(tempfile.gettempdir(), "lwm-tests-libtpu.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command, own = [sys.executable, "-c", code], {"env": os.environ | BESIDE}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, **own)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def on_pod():
    """Returns `on_pod(code)`: the JSON that the last line of a script prints, which may use the compiler."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu, the TPU compiler: pip install '.[tpu]'")
    return _run
