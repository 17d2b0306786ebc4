"""Thirty kills of a pod, of one process or all, at moments drawn from a seed: nothing lost, nothing twice.

Six runs are killed five times each, and started again each time, and come to their end. Each is held against
one that nobody disturbed: weights, moments, random keys and data positions bit for bit, and the same rows of
metrics once each, among them a digest of every batch.
"""

import contextlib
import itertools
import os
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from lwm.training.checkpoints import latest_step

HOSTS, RUNS, KILLS, SEED = 4, 6, 5, 9
STEPS = 30
STAGE = dict(context_length=16, batch_tokens=128, steps=STEPS, learning_rate=0.01, mixture={"text": 1.0})
STAGE |= dict(checkpoint_every=10, eval_every=15, eval_batches=1)
CONFIG = {
    "experiment": "kills",
    "model": {"witness": True, "vision_vocab_size": 0},
    "log_every": 1,
    "stages": {
        "a": STAGE | {"mesh": {"data": 2, "fsdp": 2}},
        "b": STAGE | {"mesh": {"fsdp": 2, "seq": 2}},
        "c": STAGE | {"mesh": {"tensor": 2, "seq": 2}, "context_length": 32},
    },
}
# When a kill comes, and at most how often that is waited for: a process has begun to import; a batch is read
# (the first two before the step is compiled); a step has been taken; a save is under way; a stage follows
# another.
MOMENTS = {"start": 1, "read": 30, "step": 30, "save": 3, "change": 1}


class Kill(NamedTuple):
    number: signal.Signals
    host: int | None  # None: all of them, SIGTERM by way of the pod
    moment: str
    count: int  # it comes when its moment has been seen so often


def draw(seed: int, count: int) -> list[Kill]:
    """Both signals at every moment, to one host and to all; then whatever comes; in any order."""
    rng = np.random.default_rng(seed)
    kinds = list(itertools.product((signal.SIGKILL, signal.SIGTERM), ("all", "one"), MOMENTS))
    kinds += [kinds[index] for index in rng.integers(len(kinds), size=count - len(kinds))]
    kills = []
    for number, whom, moment in kinds:
        host, times = rng.integers(HOSTS), 1 + rng.integers(MOMENTS[moment])
        kills.append(Kill(number, int(host) if whom == "one" else None, moment, int(times)))
    return [kills[index] for index in rng.permutation(count)]


class Watch:
    """What can be seen of a pod from outside since it was started: its logs, and folders that appear."""

    def __init__(self, workdir: Path):
        self._stages, self._logs = workdir / "stages", Path(f"{workdir}_logs")
        for log in self._logs.glob("*.log"):
            log.unlink()
        self._before, self._saves = self._saving(), 0
        self._begun = self._folders()

    def seen(self, kill: Kill) -> bool:
        """Whether the moment of a kill is here."""
        spoken = self._log(kill.host or 0)
        now = self._saving()
        self._saves, self._before = self._saves + len(now - self._before), now
        found = {
            "start": len(self.processes()) == HOSTS,
            "read": spoken.count("reads "),
            "step": self._log(0).count("· step ") - self._log(0).count("held-out"),
            "save": self._saves,
            "change": len(self._folders() - self._begun - {"0_a"}),
        }
        return found[kill.moment] >= kill.count

    def processes(self) -> list[int]:
        """Of the hosts, in their order, as far as they have said."""
        found = (re.match(r"process (\d+)\n", self._log(host)) for host in range(HOSTS))
        return [int(match[1]) for match in found if match]

    def saving(self) -> int:
        """Saves that were cut short."""
        return len(self._saving())

    def _log(self, host: int) -> str:
        path = self._logs / f"host_{host}.log"
        return path.read_text() if path.exists() else ""

    def _saving(self) -> set[tuple]:
        found = set()
        for path in self._stages.glob("*/*.orbax-checkpoint-tmp*"):
            with contextlib.suppress(FileNotFoundError):  # it has its final name by now
                found.add((path, path.stat().st_ino))
        return found

    def _folders(self) -> set[str]:
        return {path.name for path in self._stages.glob("*")}


def strike(kill: Kill, process, watch: Watch) -> None:
    """Sends the signal of a kill: the pod hands SIGTERM to all its hosts, as a cloud does."""
    if kill.host is None and kill.number == signal.SIGTERM:
        process.send_signal(kill.number)
        return
    for host, pid in enumerate(watch.processes()):
        if kill.host in (None, host):
            with contextlib.suppress(ProcessLookupError):  # it was at its end
                os.kill(pid, kill.number)


def place(workdir: Path) -> dict[str, int | None]:
    """The newest step that each stage has saved."""
    return {folder.name: latest_step(folder) for folder in sorted((workdir / "stages").glob("*"))}


@pytest.fixture(scope="module")
def pods(tmp_path_factory):
    """A folder, and what pods in it share: a cache of compiled programs, which kills may hit too."""
    folder = tmp_path_factory.mktemp("pods")
    variables = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "LOCAL_POD_PATIENCE": "5"}
    variables |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return folder, variables | {name: os.environ[name] for name in ("XLA_FLAGS", "OPENBLAS_NUM_THREADS")}


@pytest.fixture(scope="module")
def whole(pods, run_pod, rows_of):
    """The run that nobody disturbs."""
    folder, variables = pods
    run_pod(HOSTS, 1, folder / "whole", CONFIG, **variables)
    rows = [row for row in rows_of(folder / "whole") if row["kind"] == "train"]
    places = [(row["stage"], row["step"]) for row in rows]
    assert places == list(itertools.product("abc", range(1, STEPS + 1)))
    assert len({row["digest"] for row in rows}) == len(rows)
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("index", range(RUNS))
def test_kills_change_nothing(index, pods, whole, start_pod, saved, rows_of, assert_same):
    (folder, variables), kills = pods, draw(SEED, RUNS * KILLS)[index * KILLS : (index + 1) * KILLS]
    # A moment that does not come before the end of a run is waited for in a new one.
    for attempt in itertools.count():
        workdir = folder / f"run_{index}_{attempt}"
        ended = False
        while not ended:
            watch, began = Watch(workdir), time.monotonic()
            process = start_pod(HOSTS, 1, workdir, CONFIG, **variables)
            while process.poll() is None and not (kills and watch.seen(kills[0])):
                time.sleep(0.01)
            kill = kills.pop(0) if process.poll() is None else None
            if kill:
                strike(kill, process, watch)
            changes_ahead = not (workdir / "stages/2_c").exists()
            shown, _ = process.communicate(timeout=900)
            ended = process.returncode == 0
            seconds = round(time.monotonic() - began)
            print(index, kill, process.returncode, place(workdir), watch.saving(), f"{seconds} s", flush=True)
            if kill and kill.number == signal.SIGTERM and (changes_ahead or not ended):
                assert process.returncode == 128 + signal.SIGTERM, shown
                assert "stopped and saved at step" in shown or kill.moment == "start", shown
            else:
                assert kill or ended, shown
        for name in ("0_a", "1_b", "2_c"):
            (arrays, position), (expected, end) = (saved(run / "stages" / name) for run in (workdir, whole))
            assert_same(arrays, expected)
            assert position == end
        assert rows_of(workdir) == rows_of(whole)
        if not kills:
            break
