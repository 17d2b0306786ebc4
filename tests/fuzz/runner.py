"""A process for each target, which reads inputs one after another; it may die of one without the rest."""

import contextlib
import hashlib
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import sandbox
from tests.fuzz.mutation import spoil
from tests.fuzz.target import Target

CASES = Path(__file__).parent / "cases"
_PATIENCE = 600  # seconds of silence after which a process counts as dead
_LARGEST = 20_000  # bytes of a case
_ALIKE = 2  # cases that are kept of one reason
_FAST = "/dev/shm"  # every input is a file
_NOW = "now"  # the input that is being read, beside the sandbox


class Finding(NamedTuple):
    """An input that was neither read nor refused. name: number of the input, or name of the case."""

    name: str
    reason: str
    content: bytes

    @property
    def kind(self) -> str:
        """The reason without what is particular to the input."""
        return self.reason.partition(": ")[0]


class Tally(NamedTuple):
    """What became of the inputs of a target."""

    target: str
    inputs: int
    parsed: int
    refused: int
    seconds: float
    findings: list[Finding]


def spoiled(target: Target, seed: int, number: str) -> bytes:
    """An input by its number: a function of target, seed and number alone."""
    return target.wrap(spoil(target.seeds(), random.Random(f"{target.name} {seed} {number}")))


def cases(target: Target) -> list[str]:
    """Names of the cases of a target."""
    return sorted(path.name for path in (CASES / target.name).glob("*"))


def case(target: Target, name: str) -> bytes:
    """The content of a case."""
    return (CASES / target.name / name).read_bytes()


def run(
    target: Target,
    names: Sequence[str],
    content: Callable[[str], bytes],
    *,
    seconds: float = 1e9,
    warm: bool = True,
) -> Tally:
    """Reads inputs in a process of its own, and goes on in another one if that dies.

    Args:
      content: of an input, by its name; called in that process.
      seconds: after so many no further one is read.
      warm: read the seeds first, so that what is imported, compiled and cached counts for no input.
    """
    counts, findings, done, start = {"parsed": 0, "refused": 0}, [], 0, time.monotonic()
    while done < len(names) and time.monotonic() - start < seconds:
        with _started(target, names[done:], content, warm) as outcomes:
            for outcome, found in outcomes:
                if outcome in counts:
                    counts[outcome] += 1
                else:
                    findings.append(Finding(names[done], outcome, found))
                done += 1
                if time.monotonic() - start > seconds:
                    break
    return Tally(target.name, done, counts["parsed"], counts["refused"], time.monotonic() - start, findings)


def keep(tally: Tally) -> list[Path]:
    """Writes a few findings of each reason as cases, the smallest ones."""
    written, seen = [], {}
    for found in sorted(tally.findings, key=lambda finding: len(finding.content)):
        seen[found.kind] = seen.get(found.kind, 0) + 1
        if seen[found.kind] <= _ALIKE and len(found.content) <= _LARGEST:
            path = CASES / tally.target / hashlib.sha256(found.content).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found.content)
            written.append(path)
    return written


@contextlib.contextmanager
def _started(
    target: Target, names: Sequence[str], content: Callable[[str], bytes], warm: bool
) -> Iterator[Iterator]:
    """A process that reads the inputs; yields the outcome of each and, of findings, the input."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(dir=_FAST if os.path.isdir(_FAST) else None) as base:
        process = context.Process(target=_work, args=(target, names, content, warm, Path(base), sender))
        process.start()
        sender.close()

        def outcomes() -> Iterator[tuple[str, bytes]]:
            for _ in names:
                try:
                    if receiver.poll(_PATIENCE):
                        yield receiver.recv()
                        continue
                    why = f"hang: no answer for {_PATIENCE} s"
                except EOFError:
                    process.join()
                    why = f"death of the process, exit code {process.exitcode}"
                if not (Path(base) / _NOW).exists():
                    raise RuntimeError(f"{target.name}: {why} before the first input")
                yield why, (Path(base) / _NOW).read_bytes()
                return

        try:
            yield outcomes()
        finally:
            process.kill()
            process.join()
            receiver.close()


def _work(
    target: Target,
    names: Sequence[str],
    content: Callable[[str], bytes],
    warm: bool,
    base: Path,
    channel: Connection,
) -> None:
    """What the process does."""
    # What decoders say about damage would bury the table.
    errors, quiet = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sandbox.lay(base, target)
    os.chdir(base / sandbox.INSIDE)
    guard = sandbox.Sandbox(base)
    try:
        seeds = [guard.attempt(target, target.wrap(seed)) for seed in (target.seeds() if warm else ())]
        if seeds and "parsed" not in seeds:
            raise RuntimeError(f"no seed is read: {seeds}")
        for name in names:
            (base / _NOW).write_bytes(own := content(name))
            outcome = guard.attempt(target, own)
            channel.send((outcome, b"" if outcome in ("parsed", "refused") else own))
    except BaseException:
        os.dup2(errors, 2)
        raise
    channel.close()
    os._exit(0)
