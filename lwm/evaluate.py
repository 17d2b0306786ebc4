"""python -m lwm.evaluate: held-out numbers of a trained model, each beside its baseline.

    python -m lwm.evaluate --workdir=runs/lwm       text, video codes and a needle grid of a transformer
    python -m lwm.evaluate --workdir=runs/vqgan     rebuilt frames of a VQGAN

Writes WORKDIR/evaluation.jsonl (earlier rows of the stage are replaced) and WORKDIR/needle.json,
or a picture of rebuilt frames in WORKDIR/samples/. With more than one device all of them form one ring.
"""

import json
import sys

from absl import flags

from lwm.errors import UserError
from lwm.launcher import launch, start_devices

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of python -m lwm.train.", required=True)
DATA = flags.DEFINE_string("data", "", "Data folder (that of the training run if empty).")
STAGE = flags.DEFINE_string("stage", None, "Name of the stage (the last one with a checkpoint if not given).")
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 2**17, "Held-out tokens of each kind; 0 = all.", lower_bound=0
)
LENGTHS = flags.DEFINE_list("needle_lengths", [], "In tokens; 1/16, 1/4 and all of the context if not given.")
DEPTHS = flags.DEFINE_list("needle_depths", ["0", "50", "100"], "Percent of the context before the needle.")
SAMPLES = flags.DEFINE_integer("needle_samples", 2, "Questions in each cell; 0 = no grid.", lower_bound=0)


def main():
    lengths, depths = numbers("needle_lengths", LENGTHS.value), numbers("needle_depths", DEPTHS.value)
    start_devices()
    import jax
    from etils import epath

    from lwm import held_out
    from lwm.data.manifest import write_json, write_whole
    from lwm.evaluation import rows
    from lwm.evaluation.workdirs import read_json, read_rows

    workdir = epath.Path(WORKDIR.value)
    where = {"data": DATA.value, "stage": STAGE.value}
    if ((read_json(workdir / "config.json") or {}).get("model") or {}).get("name") == "vqgan":
        stage, values = held_out.evaluate_vqgan(workdir, **where)
        cells = []
    else:
        asked = {
            "lengths": lengths,
            "depths": depths,
            "samples": SAMPLES.value,
            "max_tokens": MAX_TOKENS.value,
        }
        stage, values, cells = held_out.evaluate_transformer(workdir, **where, **asked, track=track)
    found = rows.rows_of(values, stage)
    print("\n".join(rows.lines(found)))
    if jax.process_index() == 0:
        if cells:
            grid = {"stage": stage, "cells": [cell._asdict() for cell in cells]}
            write_json(workdir / "needle.json", grid)
        path = workdir / "evaluation.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows.replace(read_rows(path), found))
        write_whole(path, text.encode())


def numbers(flag: str, texts: list[str]) -> list[int]:
    """The whole numbers of a list flag."""
    if wrong := [text for text in texts if not text.strip().isdigit()]:
        raise UserError(f"{flag}: {wrong[0]!r} is not a whole number; write for example --{flag}=0,50")
    return [int(text) for text in texts]


def track(items, title):
    """Passes the items on and says how far they are: a bar on a terminal, lines in a log."""
    from rich.console import Console
    from rich.progress import track as bar

    from lwm.data.progress import lines

    if sys.stderr.isatty():
        return bar(items, title, console=Console(stderr=True))
    return lines(items, title, len(items), "batches")


if __name__ == "__main__":
    launch(main)
