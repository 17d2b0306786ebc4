"""A grid of small models on three modalities of real data, to fit laws of scaling to.

Question  Does loss follow sum_i log(T_i / C_i) + log P, or another law? What do tokenizers, and tokens of
          other modalities, change?
Paper     the Scaling Law Hypothesis (2409.06754), whose authors fitted nothing.
Command   launch/task_sources.sh runs/tasks
          python -m experiments.scaling --sources=runs/tasks --workdir=runs/scaling
          Rows that are there are not made again, the cheapest come first, and the CSV is whole at any moment.
          --list shows the rows and what they cost, --only=NAME makes one of them: a job of a pod, with an
          --output of its own. --budget=100 is the same grid with ten times the sizes and tokens.
Hardware  two CPU cores.
Data      experiments/scaling_data.py. Held-out losses are on the same raw bytes for all tokenizers; contexts
          are of 128 tokens, so that coarser tokenizers see further.
Expected  see experiments/scaling_laws.py, which reads the CSV.

P leaves the tables of ids out, so that tokenizers share it; the CSV has both counts. A run of two modalities
has one table for both, their ids one after another, and rows of 128 tokens of one of them, mixed at random.
Every run has a cosine schedule of its own length, batches of 512 tokens, and a peak rate by width alone.
"""

import argparse
import pathlib
import shutil
import sys
import time

import numpy as np

from experiments import scaling_data, sweeps
from lwm.errors import UserError
from lwm.scaling import sweep
from lwm.scaling.compression import Compression
from lwm.scaling.flops import body_parameters
from lwm.scaling.sweep import Cell

MODALITIES = tuple(scaling_data.VOCABULARIES)
KEY = ("size", *(f"{name}_{what}" for name in MODALITIES for what in ("tokenizer", "tokens")), "seed")
_FOUND = ("nats", "bits_per_byte", "bytes_per_token", "epochs")
COLUMNS = (
    *KEY,
    *("parameters", "all_parameters", "width", "layers", "vocabulary", "steps", "learning_rate"),
    *(f"{name}_{what}" for name in MODALITIES for what in _FOUND),
    *("train_nats", "flops", "seconds", "processor_seconds", "commit", "note", "command"),
)
TOKENIZERS = ("modality", "tokenizer", "ids", "raw_bytes", "tokens", "bytes_per_token", "psnr")
COMPRESSORS = ("gzip", "xz", "png", "flac")
FIXED = 2e11  # FLOPs in whose time a program is compiled and a loss measured, for what is left to be told
ROOM = 2**28  # bytes on the disk of the workdir: ids, and compiled programs


def key_of(cell: Cell) -> dict:
    """The columns of KEY."""
    parts = {part.modality: part for part in cell.parts}
    row = {"size": cell.size, "seed": cell.seed}
    for name in MODALITIES:
        row[f"{name}_tokenizer"] = parts[name].tokenizer if name in parts else ""
        row[f"{name}_tokens"] = parts[name].tokens if name in parts else 0
    return row


class Data:
    """Streams of ids in a folder, made when they are first asked for; sources are read at most once."""

    def __init__(self, sources: str, folder: pathlib.Path, most: int, table: sweeps.Table):
        self._sources, self._folder, self._most, self._table = sources, folder, most, table
        self._corpora: dict[str, scaling_data.Corpus] = {}

    def streams(self, modality: str, tokenizer: str):
        from experiments.scaling_run import Streams

        path = self._folder / f"{modality}_{tokenizer}_{self._most}.npz"
        described_already = self._table.has(modality=modality, tokenizer=tokenizer)
        if not (path.exists() and described_already):
            if modality not in self._corpora:
                self._corpora[modality] = scaling_data.READERS[modality](self._sources)
            corpus = self._corpora[modality]
            train, heldout, about = scaling_data.encode(corpus, modality, tokenizer, self._most)
            draft = path.with_suffix(".part.npz")
            np.savez(draft, train=train, heldout=heldout, raw_bytes=about.raw_bytes)
            draft.replace(path)
            if not described_already:
                self._table.add(described(about))
        with np.load(path) as file:
            return Streams(file["train"], file["heldout"], int(file["raw_bytes"]))


def described(about: Compression) -> dict:
    """A row of scaling_tokenizers.csv."""
    ids = scaling_data.VOCABULARIES[about.modality][about.tokenizer]
    row = {"modality": about.modality, "tokenizer": about.tokenizer, "ids": ids, "psnr": about.psnr}
    row |= {"raw_bytes": about.raw_bytes, "tokens": about.tokens, "bytes_per_token": about.bytes_per_token}
    return row | {name: about.bits_per_byte.get(name, "") for name in COMPRESSORS}


def make_row(cell: Cell, data: Data) -> dict:
    """Trains a cell and gives its row."""
    from experiments import scaling_run

    vocabularies = scaling_data.VOCABULARIES
    config = sweep.model_of(cell, vocabularies)
    streams = {part.modality: data.streams(part.modality, part.tokenizer) for part in cell.parts}
    offsets, start = {}, 0
    for part in cell.parts:
        offsets[part.modality], start = start, start + vocabularies[part.modality][part.tokenizer]
    begun, busy = time.perf_counter(), time.process_time()
    row = key_of(cell) | scaling_run.run(cell, config, streams, offsets)
    # Others may be at work: what the row took of the processors says more than the clock on the wall.
    row |= {"seconds": round(time.perf_counter() - begun, 1)}
    row |= {"processor_seconds": round(time.process_time() - busy, 1)}
    for name, own in streams.items():
        row[f"{name}_bytes_per_token"] = own.heldout_bytes / len(own.heldout)
    body, tables = body_parameters(config), 2 * config.width * config.vocab_size
    row |= {"parameters": body, "all_parameters": body + tables, "vocabulary": config.vocab_size}
    row |= {"width": config.width, "layers": config.layers, "learning_rate": scaling_run.peak_rate(config)}
    return row | {"flops": sweep.cost(cell, vocabularies), "note": "miniature"}


def chosen_cells(cells: list[Cell], only: str) -> list[Cell]:
    """All of them, or the one of that name.

    Raises:
      UserError: there is none of that name.
    """
    found = [cell for cell in cells if only in ("", cell.name)]
    if not found:
        raise UserError(f"--only: {only!r} is no row of this grid; --list shows all {len(cells)}")
    return found


def sweep_rows(cells: list[Cell], table: sweeps.Table, data: Data, budget: float = 1.0) -> None:
    """Makes the rows that are missing, with a bar or lines over all of them, in units of their cost."""
    from lwm.training.progress import Report

    costs = {cell: FIXED + sweep.cost(cell, scaling_data.VOCABULARIES) for cell in cells}
    todo = [cell for cell in cells if not table.has(**key_of(cell))]
    left, tokens, begun, spent = sum(costs[cell] for cell in todo), 0, time.perf_counter(), 0.0
    commit = sweeps.commit()  # of the code that was loaded, whatever is committed while it runs
    with Report() as report:
        report.begin("grid", len(cells) - len(todo), len(cells))
        for done, cell in enumerate(todo, start=len(cells) - len(todo) + 1):
            command = f"python -m experiments.scaling --budget={budget:g} --only={cell.name}"
            row = make_row(cell, data) | {"commit": commit, "command": command}
            table.add(row)
            spent, tokens = spent + costs[cell], tokens + cell.tokens
            passed = time.perf_counter() - begun
            state = {"stage": "grid", "step": done, "loss": row["train_nats"]}
            state |= {"tokens_per_second": tokens / passed, "eta": passed * (left - spent) / spent}
            report.update(state, len(cells), "tokens", logged=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sources", default="runs/tasks", help="what launch/task_sources.sh has made")
    parser.add_argument("--workdir", default="runs/scaling", help="for ids and compiled programs")
    parser.add_argument("--output", default=str(sweeps.ROOT / "experiments/results/scaling.csv"))
    parser.add_argument("--budget", type=float, default=1.0, help="compute of the largest run, in ours")
    parser.add_argument("--only", default="", help="NAME: this row alone")
    parser.add_argument("--list", action="store_true", help="names of the rows and their FLOPs")
    chosen = parser.parse_args()
    try:
        grid = sweep.grid(scaling_data.VOCABULARIES, chosen.budget)
        cells = chosen_cells(grid, chosen.only)
        if chosen.list:
            for cell in cells:
                print(f"{sweep.cost(cell, scaling_data.VOCABULARIES):.2e}  {cell.name}")
            return
        make(cells, chosen, most=max(part.tokens for cell in grid for part in cell.parts))
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def make(cells: list[Cell], chosen: argparse.Namespace, *, most: int) -> None:
    """Makes the rows of `cells`; of every stream at least `most` ids are kept, if there are so many."""
    import jax

    sweeps.start_devices(1)
    workdir, output = pathlib.Path(chosen.workdir), pathlib.Path(chosen.output)
    workdir.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(workdir).free) < ROOM:
        wanted = f"{free >> 20} MiB free; make room for {ROOM >> 20}"
        raise UserError(f"--workdir: {workdir} has {wanted}")
    jax.config.update("jax_compilation_cache_dir", str(workdir.resolve() / "programs"))
    table = sweeps.Table(output, COLUMNS, KEY)
    beside = output.with_name(f"{output.stem}_tokenizers.csv")
    about = sweeps.Table(beside, (*TOKENIZERS, *COMPRESSORS), ("modality", "tokenizer"))
    sweep_rows(cells, table, Data(chosen.sources, workdir, most + sweep.CONTEXT, about), chosen.budget)


if __name__ == "__main__":
    main()
