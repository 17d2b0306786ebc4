"""A small model with cross-attention: its batches of packed clips, open gates, and the dense reference; and
batches of the tasks of a MultiModel."""

import functools
import importlib.util
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from lwm.models.cross_attention import SIZES, CrossAttentionConfig, CrossAttentionLM
from lwm.ops.masks import FRAME_BITS
from lwm.parallel.layout import zigzag_order

VOCABULARY = 40
CONFIG = SIZES["debug"] | dict(
    vocab_size=VOCABULARY, rope_theta=1000.0, attention_block=8, remat="none", layers=2
)
# Stored features, of which a frame has as many as the model looks at.
FEATURES = dict(encoder_layers=0, feature_width=16, frame_tokens=3)
# The programs are tiny: compiling them well takes longer than running them badly.


@pytest.fixture(scope="session")
def cross():
    """`model(**changes)`, `example`, `pack`, `params(model, batch)`, `step(model)`, `dense`, `close`."""
    return types.SimpleNamespace(
        model=_model,
        features=FEATURES,
        example=_example,
        pack=_pack,
        params=_params,
        step=_step,
        jit=jax.jit,
        dense=_dense(),
        close=_close,
        in_ring=_in_ring,
    )


@functools.cache
def _model(**changes):
    return CrossAttentionLM(CrossAttentionConfig(**CONFIG | changes))


def _example(config, seed, length, frames):
    """One example: random text that sees more and more of `frames` random frames, as fields of a batch."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, VOCABULARY, length + 1).astype(np.int32)
    if config.encoder_layers:
        seen = rng.integers(0, 256, (frames, config.resolution, config.resolution, 3), dtype=np.uint8)
    else:
        count = config.frame_tokens + (2 if config.resampler_layers else 0)
        seen = rng.normal(size=(frames, count, config.feature_width)).astype(np.float32)
    return dict(
        tokens=ids[:-1],
        targets=ids[1:],
        weights=np.full(length, 1 / length, np.float32),
        positions=np.arange(length),
        media=np.sort(rng.integers(0, frames + 1, length)),
        seen=seen,
    )


def _pack(config, rows, length, frames):
    """The batch of a list of examples for each row; each example has a clip of its own, from number 0 on."""
    kinds = dict(weights=np.float32, is_vision=bool, targets_are_vision=bool)
    names = ("tokens", "targets", "segments", "positions", "media", *kinds)
    batch = {name: np.zeros((len(rows), length), kinds.get(name, np.int32)) for name in names}
    first = next(example for examples in rows for example in examples)["seen"]
    seen, ids = np.zeros((len(rows), frames, *first.shape[1:]), first.dtype), np.zeros((len(rows), frames))
    for row, examples in enumerate(rows):
        at = at_frame = 0
        for clip, example in enumerate(examples):
            (stop, count), base = (at + len(example["tokens"]), len(example["seen"])), clip << FRAME_BITS
            for name in ("tokens", "targets", "weights", "positions"):
                batch[name][row, at:stop] = example[name]
            batch["segments"][row, at:stop] = clip + 1
            batch["media"][row, at:stop] = base + example["media"]
            seen[row, at_frame : at_frame + count] = example["seen"]
            ids[row, at_frame : at_frame + count] = base + 1 + np.arange(count)
            at, at_frame = stop, at_frame + count
    name = "frames" if config.encoder_layers else "features"
    return batch | {name: seen, "frame_ids": ids.astype(np.int32)}


def _in_ring(batch, n):
    """The batch with its text in the order of a ring."""
    order = zigzag_order(batch["tokens"].shape[1], n)
    of_frames = "frames", "features", "frame_ids"
    return {name: x if name in of_frames else x[:, order] for name, x in batch.items()}


def _params(model, batch):
    """Larger weights than at the start of training, and gates that are open."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spread, middle = (0.3, 0.4) if name.endswith("_gate") else (0.1, 1.0 * name.endswith("scale"))
        return rng.normal(middle, spread if middle else 0.16, leaf.shape).astype(np.float32)

    shapes = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), batch)
    return jax.tree.map_with_path(draw, shapes)


@functools.cache
def _step(model):
    """Compiled (params, batch) -> (loss, gradient)."""
    return jax.jit(jax.value_and_grad(lambda params, batch: model.loss(params, batch, None)[0]))


def _dense():
    path = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "xattn_dense.py"
    spec = importlib.util.spec_from_file_location("xattn_dense", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Dense


def _close(tree, expected, tolerance=1e-5):
    """Leaf by leaf, relative to the largest entry of the leaf."""
    paths, expected = jax.tree.leaves_with_path(tree), jax.tree.leaves(expected)
    assert len(paths) == len(expected)
    for (path, leaf), other in zip(paths, expected, strict=True):
        scale = max(0.1, float(np.max(np.abs(other))))
        np.testing.assert_allclose(
            np.asarray(leaf) / scale,
            np.asarray(other) / scale,
            atol=tolerance,
            err_msg=jax.tree_util.keystr(path),
        )


@pytest.fixture(scope="session")
def task_batch():
    """`task_batch(config, rows=4)`: numpy arrays; a few rows of every kind, the last of each fills up."""

    def make(config, rows=4):
        rng, T, S = np.random.default_rng(0), config.target_length, config.source_length

        def text(length):
            lengths = rng.integers(1, length + 1, (rows, 1))
            words = rng.integers(3, config.vocab_size, (rows, length))
            words = np.where(np.arange(length) == lengths - 1, config.eos, words)
            return np.where(np.arange(length) < lengths, words, 0).astype(np.int32)

        def images():
            side = config.resolution
            return rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)

        samples = rng.integers(1, config.samples + 1, rows).astype(np.int32)
        waveform = rng.uniform(-1, 1, (rows, config.samples)) * (np.arange(config.samples) < samples[:, None])
        batch = {
            "classify": {
                "images": images(),
                "labels": rng.integers(0, config.classes, rows).astype(np.int32),
            },
            "caption": {"images": images(), "targets": text(T)},
            "speech": {"waveform": waveform.astype(np.float32), "samples": samples, "targets": text(T)},
            "translate": {"source": text(S), "targets": text(T)},
        }
        weights = np.linspace(1, 0, rows).astype(np.float32)
        for index, kind in enumerate(config.kinds):
            batch[kind] |= {"task": np.full(rows, index, np.int32), "weights": weights}
        return batch

    return make
