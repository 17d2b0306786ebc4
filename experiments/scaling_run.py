"""One run of experiments/scaling.py: the transformer of lwm, its optimizer, many steps to one call.

Batches are small and models are, too; so a compiled program takes STEPS steps at a time, and its schedule is
told how many there are in all, so that runs of one shape and any length share it.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lwm.errors import UserError
from lwm.models.sizes import TransformerConfig
from lwm.models.transformer import LWM
from lwm.scaling.sweep import CONTEXT, Cell
from lwm.training.optimizers import make_optimizer, make_schedule
from lwm.training.step import init_state, make_train_step

ROWS, STEPS = 4, 32  # of a batch; in a call
SCORED = 64  # rows
# Peak learning rate at a width; it falls with the square root of the width. Tried on 131,072 samples of
# sound, held-out nats: 10,000 parameters 3.93 with 0.01, 3.86 with 0.03; 100,000 4.10 with 0.003, 3.75 with
# 0.01, 3.81 with 0.03; a million 3.83 with 0.006, 3.79 with 0.015.
RATE, WIDTH = 0.015, 32
_PARTS = 1000  # of a schedule, which is stretched to the steps of a run


class Streams(NamedTuple):
    """Ids of one modality by one tokenizer; and the bytes of what is held out, as they were before."""

    train: np.ndarray
    heldout: np.ndarray
    heldout_bytes: int


class Program(NamedTuple):
    """begin: seed -> state. advance: (state, rows [K, B, T + 1], steps) -> state, losses [K], not finite of
    steps that were skipped. nll: (params, rows [B, T + 1]) -> [B, T]."""

    begin: Callable
    advance: Callable
    nll: Callable


@functools.cache
def program(config: TransformerConfig) -> Program:
    """Compiled at most once for a shape."""
    model = LWM(config)
    curve = make_schedule(
        learning_rate=1.0, steps=_PARTS, end_learning_rate=0.1, warmup_steps=_PARTS // 20, schedule="cosine"
    )

    def optimizer(steps):
        # AdamW's step is proportional to its rate, weight decay included, so the schedule may come after it.
        stretched = optax.scale_by_schedule(lambda done: curve(done * (_PARTS / steps)))
        return optax.chain(make_optimizer(learning_rate=peak_rate(config), steps=1), stretched)

    def advance(state, rows_KBT, steps):
        step = make_train_step(model, optimizer(steps))

        def one(state, rows_BT):
            state, metrics = step(state, batch_of(rows_BT))
            return state, jnp.where(metrics["skipped"] > 0, jnp.nan, metrics["loss"])

        return jax.lax.scan(one, state, rows_KBT)

    def begin(seed):
        zeros = batch_of(np.zeros((1, CONTEXT + 1), np.int32))
        return init_state(model, optimizer(1.0), jax.random.key(seed), zeros)

    def nll(params, rows_BT):
        return model.nll(params, batch_of(rows_BT))

    return Program(begin, jax.jit(advance, donate_argnums=0), jax.jit(nll))


def peak_rate(config: TransformerConfig) -> float:
    return RATE * math.sqrt(WIDTH / config.width)


def batch_of(rows_BT) -> dict[str, jax.Array]:
    """Rows of T + 1 ids as the model takes them, each one segment; the loss is the mean over all targets."""
    tokens_BT = jnp.asarray(rows_BT[:, :-1], jnp.int32)
    T = tokens_BT.shape[1]
    ones, no = jnp.ones_like(tokens_BT), jnp.zeros_like(tokens_BT, bool)
    return {
        "tokens": tokens_BT,
        "targets": jnp.asarray(rows_BT[:, 1:], jnp.int32),
        "weights": jnp.full(tokens_BT.shape, 1 / T, jnp.float32),
        "segments": ones,
        "positions": jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), tokens_BT.shape),
        "is_vision": no,
        "targets_are_vision": no,
    }


def run(
    cell: Cell, config: TransformerConfig, streams: Mapping[str, Streams], offsets: Mapping[str, int]
) -> dict:
    """Trains a cell; the last training loss, and held-out losses and epochs by modality.

    Args:
      streams, offsets: of its modalities: their ids, and where they begin in the common table.

    Raises:
      UserError: a loss or gradient was not finite and its step was skipped: no law is fitted to that.
    """
    compiled, rng = program(config), np.random.default_rng(cell.seed)
    parts, found = [], {}
    for part in cell.parts:
        windows, count = windows_of(streams[part.modality].train), part.tokens // CONTEXT
        epochs = range(math.ceil(count / len(windows)))
        order = np.concatenate([rng.permutation(len(windows)) for _ in epochs])
        parts.append(windows[order[:count]] + offsets[part.modality])
        found[f"{part.modality}_epochs"] = count / len(windows)
    rows = np.concatenate(parts)
    rows = rows[rng.permutation(len(rows))] if len(parts) > 1 else rows
    steps = len(rows) // ROWS
    state, losses = compiled.begin(cell.seed), []
    for start in range(0, steps, STEPS):
        some = rows[start * ROWS : (start + STEPS) * ROWS].reshape(-1, ROWS, CONTEXT + 1)
        state, loss_K = compiled.advance(state, some, jnp.float32(steps))
        losses.append(loss_K)
    skipped = np.flatnonzero(~np.isfinite(np.concatenate(losses)))
    if skipped.size:
        raise UserError(
            f"{cell.name}: loss or gradient not finite in {skipped.size} of {steps} steps, first in step "
            f"{skipped[0] + 1}; no row is made of it: lower RATE in experiments/scaling_run.py"
        )
    found |= {"steps": steps, "train_nats": float(jnp.mean(losses[-1]))}
    for part in cell.parts:
        own = streams[part.modality]
        nats = score(compiled, state.params, windows_of(own.heldout) + offsets[part.modality])
        found[f"{part.modality}_nats"] = nats
        found[f"{part.modality}_bits_per_byte"] = nats * len(own.heldout) / math.log(2) / own.heldout_bytes
    return found


def windows_of(ids: np.ndarray) -> np.ndarray:
    """[rows, CONTEXT + 1]: one after another, each with the id that follows it."""
    count = (len(ids) - 1) // CONTEXT
    return np.lib.stride_tricks.sliding_window_view(ids, CONTEXT + 1)[: count * CONTEXT : CONTEXT]


def score(compiled: Program, params: Any, rows: np.ndarray) -> float:
    """Mean nats a token, by batches of one shape."""
    nats = []
    for start in range(0, len(rows), SCORED):
        some = rows[start : start + SCORED]
        padded = np.pad(some, ((0, SCORED - len(some)), (0, 0)))
        nats.append(np.asarray(compiled.nll(params, padded))[: len(some)])
    return float(np.concatenate(nats).astype(np.float64).mean())
