"""What `launch/local_pod.sh` does: N processes that find each other as the hosts of a pod do.

Only the standard library, so that any Python from 3.10 on can start any command; the verbs read the variables
in `lwm.launcher`.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

USAGE = "launch/local_pod.sh N [M] -- COMMAND…"
PERIOD = 0.05  # seconds between two looks at the hosts
LAST_LINE = 2**12  # bytes of a log in which its last line is looked for


class Pod:
    """The hosts that run, by index; ends with all of them ended."""

    def __init__(self, command: list[str], hosts: int, devices: int, logs: Path, patience: float):
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = [logs / f"host_{index}.log" for index in range(hosts)]
        self._patience, self._deadline = patience, float("inf")
        self._failed, self._code, self._warnings = -1, 0, 0
        self._running: dict[int, subprocess.Popen] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._warn)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, self._warn)
        common = {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "NPROC": str(4 * devices),  # threads to wait in, see `lwm.launcher.start_devices`
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{_free_port()}",
            "JAX_NUM_PROCESSES": str(hosts),
        }
        for index, log in enumerate(self._logs):
            with log.open("wb") as file:
                self._running[index] = subprocess.Popen(
                    command,
                    env=os.environ | common | {"JAX_PROCESS_ID": str(index)},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C comes to us alone, signals to all that a host starts
                    preexec_fn=_die_with_parent,
                )
        if self._warnings:
            self._signal_all(signal.SIGTERM)  # those that have started since, too

    def run(self) -> int:
        """Waits for all hosts; the exit code of the pod, that of the host that failed first."""
        with self._logs[0].open("rb") as spoken:
            while self._running:
                time.sleep(PERIOD)
                for index, process in list(self._running.items()):
                    if process.poll() is not None:
                        self._end(index, process)
                if time.monotonic() > self._deadline:
                    self._signal_all(signal.SIGKILL)
                shutil.copyfileobj(spoken, sys.stdout.buffer)
                sys.stdout.flush()
        stopped = self._warnings and self._code == 128 + signal.SIGTERM
        if self._failed >= 0 and not stopped:
            log = self._logs[self._failed]
            print(
                f"error: host {self._failed} of {len(self._logs)} ended with code {self._code} and took the "
                f"others along; {log} ends with: {_last_line(log)}",
                file=sys.stderr,
            )
        return self._code

    def _end(self, index: int, process: subprocess.Popen) -> None:
        _signal_group(process, signal.SIGKILL)  # whatever the host has left behind
        del self._running[index]
        if process.returncode and self._failed < 0:
            self._failed, self._deadline = index, time.monotonic() + self._patience
            self._code = process.returncode if process.returncode > 0 else 128 - process.returncode

    def _warn(self, number, frame) -> None:
        self._warnings += 1
        self._signal_all(signal.SIGTERM if self._warnings == 1 else signal.SIGKILL)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._running.values():
            _signal_group(process, number)


def main(arguments: list[str]) -> int:
    hosts, devices, command = _parse(arguments)
    logs, patience = (
        os.environ.get("LOCAL_POD_LOGS", "runs/local_pod"),
        os.environ.get("LOCAL_POD_PATIENCE", "20"),
    )
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", patience):
        _refuse(f"LOCAL_POD_PATIENCE: {patience!r} is no number of seconds; give for example 20")
    try:
        pod = Pod(command, hosts, devices, Path(logs), float(patience))
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}; choose another folder (LOCAL_POD_LOGS) or command")
    return pod.run()


def _parse(arguments: list[str]) -> tuple[int, int, list[str]]:
    before, dashes, command = arguments, False, []
    if "--" in arguments:
        cut = arguments.index("--")
        before, dashes, command = arguments[:cut], True, arguments[cut + 1 :]
    for name, value in zip(("N", "M"), before, strict=False):
        if not re.fullmatch("[1-9][0-9]{0,2}", value):
            _refuse(f"{name}: {value!r} is no number; use 1 to 999")
    if not 1 <= len(before) <= 2 or not dashes or not command:
        _refuse(f"arguments: {' '.join(arguments)!r} does not name hosts, -- and a command")
    if not shutil.which(command[0]):
        _refuse(f"COMMAND: {command[0]!r} is no program; give a path or a name on PATH")
    return int(before[0]), int(before[1]) if len(before) == 2 else 1, command


def _refuse(line: str) -> NoReturn:
    print(f"error: {line}: {USAGE}", file=sys.stderr)
    sys.exit(2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _die_with_parent() -> None:
    """In a new host: the kernel kills it when this script is killed (PR_SET_PDEATHSIG, Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _signal_group(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(process.pid, number)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - LAST_LINE, 0))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
