"""What the sweeps of this folder share: a CSV that grows row by row, and commands that go on where they were.

A row is known by its key, the columns that say what was asked. Rows that are there are not made again, so a
sweep may be stopped at any time and started by the same command; inside a row, `python -m lwm.train` goes on
from its checkpoints.
"""

import argparse
import csv
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lwm.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # miniatures: an accelerator would wait for them


class Table:
    """The rows of a CSV file, all with the same columns; a new row is written at once, whole or not at all.

    key: the columns that a row is known by. Columns that a file lacks are empty in its rows.
    """

    def __init__(self, path: os.PathLike | str, columns: Sequence[str], key: Sequence[str]):
        self.path, self.columns, self.key = pathlib.Path(path), list(columns), list(key)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            self.rows = list(self._read())

    def _read(self) -> Iterator[dict[str, Any]]:
        """The rows of the file. Raises UserError if they are not of this table: writing would lose them."""
        try:
            with self.path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if unknown := [name for name in row if name not in self.columns]:
                        reason = f"has cells under {unknown[0]!r}, which is no column"
                        raise UserError(f"{self.path}: {reason}; mend it or choose another file")
                    yield {name: row.get(name) or "" for name in self.columns}
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(
                f"{self.path}: no CSV in UTF-8 ({error}); mend it or choose another file"
            ) from error

    def has(self, **asked: Any) -> bool:
        """Whether there is a row with these values in the columns of the key."""
        wanted = [str(asked[name]) for name in self.key]
        return any([row[name] for name in self.key] == wanted for row in self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Puts a row behind the others; floats keep six digits."""
        self.extend([row])

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Puts rows behind the others, all of them or none."""
        rows = list(rows)
        for row in rows:
            if unknown := set(row) - set(self.columns):
                raise ValueError(f"{self.path}: no column for {sorted(unknown)}")
        new = [{name: _text(row.get(name, "")) for name in self.columns} for row in rows]
        self.rows += new
        self.write()
        for row in new:
            shown = [f"{name} {value}" for name, value in row.items() if value and name != "command"]
            print(" · ".join(shown), flush=True)

    def write(self) -> None:
        """All rows, whole or not at all."""
        draft = self.path.with_suffix(".new")
        with draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        draft.replace(self.path)


def arms_and_seeds(
    description: str,
    name: str,
    workdir: str,
    arms: Iterable[str],
    seeds: Sequence[int],
    corpus: str = "runs/needle",
) -> tuple[argparse.Namespace, list[tuple[str, int]]]:
    """The flags of a sweep over a corpus, and its rows (arm, seed): all, or --only one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", default=corpus, help="made if it is not there")
    parser.add_argument("--workdir", default=workdir)
    parser.add_argument("--output", default=str(ROOT / f"experiments/results/{name}.csv"))
    parser.add_argument("--only", default="", help="ARM,SEED: this row alone")
    chosen, arms = parser.parse_args(), list(arms)
    if not chosen.only:
        return chosen, [(arm, seed) for seed in seeds for arm in arms]
    arm, _, seed = chosen.only.partition(",")
    if arm not in arms or not seed.isdigit():
        parser.error(f"--only: {chosen.only!r}; one of {', '.join(arms)} and a seed, as {arms[0]},0")
    return chosen, [(arm, int(seed))]


def add_only(parser: argparse.ArgumentParser, arms: Iterable[str]) -> None:
    """The flag --only of a sweep; its value is a list of the arms that were chosen, of all if it is empty."""
    arms = list(arms)
    about = "NAME,NAME: these arms alone; 'NAME*': all that begin so; quoted, as shells read stars too"
    parser.add_argument("--only", default="", type=lambda asked: matching(asked, arms), help=about)


def matching(asked: str, arms: Sequence[str]) -> list[str]:
    """The arms of a list with commas, in their own order; a name that ends in * stands for all that begin so.

    Raises:
        argparse.ArgumentTypeError: a name that stands for no arm.
    """
    chosen: set[str] = set()
    for name in asked.split(",") if asked else ["*"]:
        found = [arm for arm in arms if arm == name or (name.endswith("*") and arm.startswith(name[:-1]))]
        if not found:
            raise argparse.ArgumentTypeError(f"{name!r} is no arm; choose of {', '.join(arms)}")
        chosen.update(found)
    return [arm for arm in arms if arm in chosen]


def run(*words: str) -> None:
    """Runs `python WORDS…` from the root of the repository; a failure ends the sweep."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    print("+ python", *words, flush=True)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=os.environ | {"PYTHONPATH": path})
    if done.returncode:
        raise SystemExit(done.returncode)


def commit() -> str:
    """Of the repository, "unknown" outside of one."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def start_devices(count: int) -> None:
    """So many virtual devices on the CPU; before JAX is used."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)


def gather(table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    """Adds the rows of an evaluation that are new, all of them or none: one of them stands for them all.

    Of their fields it takes those that the table has columns for.
    """
    new: dict[tuple, Mapping[str, Any]] = {}
    for row in rows:
        row = {name: "" for name in table.key} | row
        if not table.has(**row):
            new.setdefault(tuple(str(row[name]) for name in table.key), row)
    table.extend({name: row[name] for name in table.columns if name in row} for row in new.values())


def rows_of(path: os.PathLike | str) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        yield from map(json.loads, file)


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
