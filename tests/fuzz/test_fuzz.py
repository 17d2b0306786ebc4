"""Hostile input is read or refused; and the sandbox that says so sees what it is there to see."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lwm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def fuzz(*arguments):
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_no_case_is_a_finding_any_more():
    done = fuzz("--replay")
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(path.is_file() for path in (ROOT / "tests/fuzz/cases").glob("*/*"))
    assert count > 100 and int(done.stdout.split()[-4]) == count, done.stdout


@pytest.mark.slow
def test_spoiled_files_are_read_or_refused():
    done = fuzz("--inputs=5000", f"--seed={int(time.time())}", "--forget")
    assert done.returncode == 0, done.stdout + done.stderr


def loops(path):
    while True:
        pass


def swallowed(path):
    try:
        (path.parent.parent / "new").write_text("")
    except BaseException:
        raise UserError("nothing happened") from None


CRIMES = {
    "parsed": lambda path: path.read_bytes(),
    "refused": lambda path: (_ for _ in ()).throw(UserError("x: 1; mend it")),
    "KeyError": lambda path: {}["a"],
    "RecursionError": lambda path: (lambda call: call(call))(lambda call: call(call)),
    "memory": lambda path: bytearray(2**30 + 2**20),
    "hang": loops,
    "death": lambda path: os.kill(os.getpid(), signal.SIGSEGV),
    "escape: open": swallowed,
    "escape: os.rename": lambda path: path.rename(path.parent.parent / "new"),
    "escape: os.symlink": lambda path: os.symlink("/etc", path.parent.parent / "link"),
    "escape: subprocess": lambda path: subprocess.run(["true"]),
    "escape: socket": lambda path: socket.create_connection(("127.0.0.1", 9)),
}


@pytest.mark.parametrize("kind", CRIMES)
def test_the_sandbox_sees(kind, monkeypatch):
    """In a process of its own, as always."""
    monkeypatch.syspath_prepend(ROOT)
    from tests.fuzz import runner, sandbox
    from tests.fuzz.target import Target

    monkeypatch.setattr(sandbox, "SECONDS", 0.2)
    target = Target("crime", "x", lambda: [], CRIMES[kind])
    tally = runner.run(target, ["0"], lambda name: b"content")
    outcome = tally.findings[0].reason if tally.findings else "parsed" if tally.parsed else "refused"
    assert outcome.startswith(kind), outcome
    assert tally.inputs == 1 and all(found.content == b"content" for found in tally.findings)
