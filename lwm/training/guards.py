"""Steps passed over because their loss or gradient was no finite number: how many, and what was in them.

WORKDIR/offending/<stage>_<step>/host_<index>.npz   that host's part of the batch, as it was fed in
WORKDIR/offending/<stage>_<step>/metrics.json       what the step reported
"""

import io
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from lwm.errors import UserError
from lwm.training.stages import Stage
from lwm.training.workdir import write_json

KEPT = 4  # batches of a stage that are kept: the first ones, and the one that ended the run


class Skips(NamedTuple):
    """Of a stage: all skipped steps so far, and those that the last step ends a row of."""

    total: int = 0
    in_row: int = 0

    def after(self, skipped: bool) -> "Skips":
        return Skips(self.total + 1, self.in_row + 1) if skipped else Skips(self.total)


def skips_until(rows: Iterable[dict[str, Any]], stage: str, step: int) -> Skips:
    """Of a stage after `step`, from the rows of metrics.jsonl: each skipped step has one of kind "skip"."""
    steps = {row["step"] for row in rows if row.get("kind") == "skip" and row["stage"] == stage}
    steps = {own for own in steps if own <= step}
    in_row = 0
    while step - in_row in steps:
        in_row += 1
    return Skips(len(steps), in_row)


def too_many(skips: Skips, stage: Stage, allowed: int) -> bool:
    """Whether a run ends here: more than `allowed` in a row, or every step of a stage that is over."""
    return skips.in_row > min(allowed, stage.steps - 1)


def diverged(stage: Stage, step: int, values: dict[str, float], skips: Skips) -> UserError:
    """The line that ends the run."""
    what = "gradient_norm" if math.isfinite(values["loss"]) else "loss"
    row = f", the last of {skips.in_row} in a row" if skips.in_row > 1 else ""
    return UserError(
        f"config.stages.{stage.name}.learning_rate: {stage.learning_rate:g} made the {what} "
        f"{values[what]} at step {step}{row}; lower it or warm up for longer, or look for the cause in the "
        f"batches in offending/ of the workdir"
    )


def keep_batch(
    workdir: epath.Path, stage: str, step: int, values: dict[str, float], batch: dict[str, Any]
) -> None:
    """Writes this host's part of a batch; the first host writes the metrics too, those not finite as text."""
    folder = workdir / "offending" / f"{stage}_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    file = io.BytesIO()
    np.savez(file, **{name: local_part(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)})
    (folder / f"host_{jax.process_index()}.npz").write_bytes(file.getvalue())
    if jax.process_index() == 0:
        told = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        write_json(folder / "metrics.json", {"stage": stage, "step": step} | told)


def local_part(array: jax.Array) -> np.ndarray:
    """What this host holds of a global array: its pieces beside each other, each once, in their order."""
    shards = array.addressable_shards
    spans = [
        [part.indices(size)[:2] for part, size in zip(s.index, array.shape, strict=True)] for s in shards
    ]
    places = [dict.fromkeys(sorted(axis)) for axis in zip(*spans, strict=True)]
    sizes = []
    for place in places:
        size = 0
        for start, stop in place:
            place[start, stop], size = size, size + stop - start
        sizes.append(size)
    part = np.empty(sizes, array.dtype)
    for shard, own in zip(shards, spans, strict=True):
        starts = [place[span] for place, span in zip(places, own, strict=True)]
        to = tuple(slice(a, a + stop - start) for a, (start, stop) in zip(starts, own, strict=True))
        part[to] = np.asarray(shard.data)
    return part
