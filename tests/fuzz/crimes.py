"""What the sandbox is there to see, done once each: a line "crime: outcome" for every one."""

import os
import signal
import socket
import subprocess
from pathlib import Path

from lwm.errors import UserError
from tests.fuzz import runner, sandbox
from tests.fuzz.target import Target


def _read(path: Path) -> None:
    path.read_bytes()


def _refuse(path: Path) -> None:
    raise UserError("x: 1; mend it")


def _refuse_at_length(path: Path) -> None:
    raise UserError("x: 1; mend it", "y: 2; mend it too")


def _raise(path: Path) -> None:
    raise KeyError("a")


def _recurse(path: Path) -> None:
    _recurse(path)


def _take_memory(path: Path) -> None:
    bytearray(sandbox.MEMORY + 2**20)


def _loop(path: Path) -> None:
    while True:
        pass


def _die(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _write_outside(path: Path) -> None:
    (path.parent.parent / "new").write_text("")


def _write_outside_and_hush(path: Path) -> None:
    try:
        _write_outside(path)
    except BaseException:
        raise UserError("nothing happened") from None


def _read_outside(path: Path) -> None:
    (path.parent / "../outside/secret").read_text()


def _move_out(path: Path) -> None:
    path.rename(path.parent.parent / "new")


def _link_out(path: Path) -> None:
    (path.parent / "link").symlink_to("/etc")
    (path.parent / "link" / "new").write_text("")


def _start(path: Path) -> None:
    subprocess.run(["true"])


def _connect(path: Path) -> None:
    socket.create_connection(("127.0.0.1", 9))


CRIMES = (
    *(_read, _refuse, _refuse_at_length, _raise, _recurse, _take_memory, _loop, _die, _write_outside),
    *(_write_outside_and_hush, _read_outside, _move_out, _link_out, _start, _connect),
)


def main() -> None:
    sandbox.SECONDS = 0.2
    for crime in CRIMES:
        target = Target("crime", "x", lambda: [], crime)
        tally = runner.run(target, ["0"], lambda name: b"content")
        for found in tally.findings:
            assert found.content == b"content"
            print(f"{crime.__name__}: {found.reason}")
        if not tally.findings:
            print(f"{crime.__name__}: {'parsed' if tally.parsed else 'refused'}")


if __name__ == "__main__":
    main()
