"""A run of experiments/scaling.py in seconds, on what the repository has: the last part of notebooks.

The text is the Python code of `lwm`, every eighth file held out; another modality is a walk over numbers.
"""

from collections.abc import Mapping

import numpy as np

from experiments import scaling_data, scaling_run
from experiments.scaling_run import Streams
from experiments.sweeps import ROOT
from lwm.scaling import sweep
from lwm.scaling.sweep import Cell, Part

HELD = 2**14  # characters, or numbers
TOKENS = scaling_run.ROWS * scaling_run.STEPS * scaling_run.CONTEXT  # of one call, 16,384


def code(tokenizer: str) -> Streams:
    """The code of `lwm` by one of the grid's tokenizers of text."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "lwm").rglob("*.py"))]
    train = [text for i, text in enumerate(texts) if i % scaling_data.HELDOUT_EVERY]
    heldout = "\n".join(texts[:: scaling_data.HELDOUT_EVERY])[:HELD]
    encode = scaling_data.make_tokenizer("text", tokenizer, train).encode
    ids = np.concatenate([np.asarray(encode(text), np.int32) for text in train])
    return Streams(ids, np.asarray(encode(heldout), np.int32), len(heldout.encode()))


def walk(ids: int, seed: int = 0) -> Streams:
    """Numbers below `ids` that rise by one, with a jump now and then; a byte each."""
    rng, count = np.random.default_rng(seed), 8 * HELD
    steps = np.where(rng.random(count + HELD) < 0.05, rng.integers(ids, size=count + HELD), 1)
    all_ids = (np.cumsum(steps) % ids).astype(np.int32)
    return Streams(all_ids[:count], all_ids[count:], HELD)


def train(
    parts: Mapping[str, tuple[Streams, int, int]], *, size: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """Held-out bits a raw byte by name, of one model trained on all parts.

    Args:
      parts: name -> (streams, tokens to train on, ids in the table). A name that brings no ids of its own
        shares those before it: one corpus under two names.
    """
    cell = Cell(size, tuple(Part(name, "", tokens) for name, (_, tokens, _) in parts.items()), seed)
    config = sweep.model_of(cell, {name: {"": ids} for name, (_, _, ids) in parts.items()})
    offsets, start = {}, 0
    for name, (_, _, ids) in parts.items():
        offsets[name] = start if ids else 0
        start += ids
    streams = {name: own for name, (own, _, _) in parts.items()}
    found = scaling_run.run(cell, config, streams, offsets)
    return {name: found[f"{name}_bits_per_byte"] for name in parts}
