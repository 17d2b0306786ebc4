"""Hosts behind slow links with a process of one JAX device each, as `lv_xattn_network.py` talks to them."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

from experiments.sweeps import ROOT

SCRIPT = pathlib.Path(__file__).with_name("network_hosts.sh")
WORKER = "experiments.benchmarks.lv_xattn_case"


class Refused(Exception):
    """A step that the machine refused, or a host that was lost; one line."""


class Hosts:
    """So many hosts, for so many seconds at most; a context, at whose end nothing of them is left.

    Raises:
      Refused: they cannot be made (no root, no iproute2, names taken, …).
    """

    def __init__(self, count: int, seconds: int):
        self.count, self.seconds, self.workers = count, seconds, []

    def __enter__(self) -> "Hosts":
        with contextlib.ExitStack() as made:
            self.errors = made.enter_context(tempfile.TemporaryFile("w+"))
            self.holder = subprocess.Popen(
                [SCRIPT, "hold", str(self.count), str(self.seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                start_new_session=True,  # an interrupt is ours; the end of its input is the holder's
            )
            made.callback(self._remove)
            self._answer_of_holder()
            self.made = made.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self.made.close()

    def _remove(self) -> None:
        for worker in self.workers:
            worker.kill()
        with contextlib.suppress(BrokenPipeError):
            self.holder.stdin.close()
        for process in (self.holder, *self.workers):
            process.wait()

    def limit(self, mbit: int) -> None:
        """Lets every link carry so many Mbit/s in each direction; 0 = as fast as it can."""
        self._tell(self.holder, f"rate {mbit}")
        self._answer_of_holder()

    def start(self) -> None:
        """Starts a process on each host and waits until they have found each other."""
        for number in range(self.count):
            words = [SCRIPT, "enter", str(number), sys.executable, "-m", WORKER, str(self.count), str(number)]
            self.workers.append(
                subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self.errors,
                    text=True,
                    cwd=ROOT,
                )
            )
        self._answers()

    def ask(self, **request) -> list:
        """The answers of all hosts to one request."""
        for worker in self.workers:
            self._tell(worker, json.dumps(request))
        return self._answers()

    def _tell(self, process, line: str) -> None:
        try:
            print(line, file=process.stdin, flush=True)
        except BrokenPipeError:
            raise Refused(self._why()) from None

    def _answers(self) -> list:
        found = []
        for worker in self.workers:
            line = worker.stdout.readline()
            if not line:
                raise Refused(self._why())
            found.append(json.loads(line))
        return found

    def _answer_of_holder(self) -> None:
        if self.holder.stdout.readline() != "ok\n":
            self.holder.wait()
            raise Refused(self._why())

    def _why(self) -> str:
        """The line of the script, if it has one, else the end of what the processes said."""
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines() or ["a host is gone and said nothing"]
        steps = [line for line in lines if line.startswith("error: ")]
        return steps[0].removeprefix("error: ") if steps else f"a host was lost: {lines[-1][:300]}"
