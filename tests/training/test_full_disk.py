"""Disks that are full or read-only: one line, and the last checkpoint is as it was. Root mounts some."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwm.errors import UserError
from lwm.training.checkpoints import load_params
from lwm.training.recovery import newest_whole

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SIZE = 4 * 2**20
WORKER = """
import sys
import conftest
from lwm import launcher

def main():
    launcher.start_devices()
    import json
    from lwm.training.experiment import build_experiment
    from lwm.training.loop import train
    workdir, config = sys.stdin.read().split("\\n", 1)
    experiment = build_experiment(json.loads(config))
    train(
        experiment, workdir, manifest=conftest.MANIFEST, open_batches=conftest.Stream,
        build_model=lambda stage: conftest.Bag(conftest.BagConfig(**experiment.model)),
    )

launcher.launch(main)
"""


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def config(config_of):
    return config_of({"a": {"steps": 6, "checkpoint_every": 2}}, model={"width": 4})


def fill(disk, leave):
    """Leaves so many bytes free."""
    status = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(status.f_bavail * status.f_frsize - leave))


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit(disk, tmp_path, config, run, saved, rows_of, assert_same):
    run(config, tmp_path / "whole")
    assert run(config, disk / "w", ("a", 3)) == "cut"
    folder = disk / "w/stages/0_a"
    assert newest_whole(folder) == (2, [])
    size = sum(path.stat().st_blocks * 512 for path in (folder / "2").rglob("*") if path.is_file())
    fill(disk, leave=size * 2 // 3)
    process = subprocess.run(
        [sys.executable, "-c", WORKER, "--cpu_devices=8"], cwd=HERE, capture_output=True, text=True,
        input=f"{disk / 'w'}\n{json.dumps(config)}", timeout=600,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{HERE}"},
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    assert len(process.stderr.splitlines()) == 1, process.stderr
    assert "0_a: no space left for a checkpoint; " in process.stderr
    assert "it goes on from step 2" in process.stderr and "step 3/6" in process.stdout
    assert newest_whole(folder) == (2, [])
    (disk / "ballast").unlink()
    assert run(config, disk / "w", resume="must") is None
    (found, end), (expected, position) = (saved(path) for path in (folder, tmp_path / "whole/stages/0_a"))
    assert_same(found, expected)
    assert end == position and rows_of(disk / "w") == rows_of(tmp_path / "whole")


@pytest.mark.slow
def test_no_room_at_all_and_no_writing_at_all(disk, config, run, capfd, assert_same):
    assert run(config, disk / "w", ("a", 3)) == "cut"
    params = load_params(disk / "w")[2]
    fill(disk, leave=0)
    with pytest.raises(UserError, match="workdir: .* free space") as error:
        run(config, disk / "w")
    assert "\n" not in str(error.value)
    (disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for workdir in (disk / "w", disk / "new/w"):
        with pytest.raises(UserError, match="is read-only; make it writable or choose another folder"):
            run(config, workdir)
    assert_same(load_params(disk / "w")[2], params)
    assert "Traceback" not in capfd.readouterr().err
