"""The verb: flags in, one line out when something is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "lwm.prepare", *flags], capture_output=True, text=True, cwd=ROOT, timeout=100
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("verb")
    (path / "in").mkdir()
    for at in range(12):
        (path / "in" / f"{at}.txt").write_text(f"Text number {at}.\n" * 40)
        Image.fromarray(np.full((9, 9, 3), 20 * at, np.uint8)).save(path / "in" / f"{at}.png")
    (path / "in" / "bad.jpg").write_bytes(b"bad")
    return path / "in", path / "out"


def test_it_reports_what_it_made_and_resumes(folders):
    flags = [f"--input={folders[0]}", f"--output={folders[1]}", "--resolution=8", "--vocab_size=300"]
    first, again = run(*flags), run(*flags)
    assert first.returncode == again.returncode == 0, first.stderr
    assert "text train: 11 documents" in first.stdout and "frames: 11 train, 1 heldout" in first.stdout
    assert "broken: bad.jpg cannot be decoded" in first.stderr
    assert "1 broken files or lines left out" in first.stdout
    assert again.stdout == first.stdout
    assert "frames: 13 files" in first.stderr and "files" not in again.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fps=-1"], "fps"),
        (["--heldout=0.7"], "heldout: 0.7 is not a share"),
        (["--vqgan=/no/such/workdir"], "/no/such/workdir"),
        (["--vocabsize=300"], "vocabsize"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folders, tmp_path, flags, message):
    done = run(f"--input={folders[0]}", f"--output={tmp_path / 'out'}", "--tokenizer=bytes", *flags)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
