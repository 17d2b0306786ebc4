"""Hostile input is read or refused; and the sandbox that says so sees what it is there to see."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_no_case_is_a_finding_any_more():
    done = run("tests.fuzz", "--replay")
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(path.is_file() for path in (ROOT / "tests/fuzz/cases").glob("*/*"))
    assert count > 100 and int(done.stdout.split()[-4]) == count, done.stdout


@pytest.mark.slow
def test_spoiled_files_are_read_or_refused():
    """Other ones at each run; the seed is in the output of one that fails."""
    seed = random.SystemRandom().randrange(2**31)
    done = run("tests.fuzz", "--inputs=5000", f"--seed={seed}", "--forget")
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}{done.stderr}"


SEEN = {
    "_read": "parsed",
    "_refuse": "refused",
    "_refuse_at_length": "refusal of 2 lines",
    "_raise": "KeyError",
    "_recurse": "RecursionError",
    "_take_memory": "memory: more than 1024 MiB",
    "_loop": "hang: more than 0.2 s",
    "_die": "death of the process, exit code -11",
    "_write_outside": "escape: open",
    "_write_outside_and_hush": "escape: open",
    "_read_outside": "escape: open",
    "_move_out": "escape: os.rename",
    "_link_out": "escape: ",
    "_start": "escape: subprocess.Popen",
    "_connect": "escape: socket.",
}


def test_the_sandbox_sees_what_it_is_there_to_see():
    done = run("tests.fuzz.crimes")
    found = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert found.keys() == SEEN.keys(), done.stderr
    for crime, outcome in SEEN.items():
        assert found[crime].startswith(outcome), (crime, found[crime])
