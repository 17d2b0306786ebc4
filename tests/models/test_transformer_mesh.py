"""The same loss and gradients on every mesh, and shardings for the sizes that no test could allocate."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.sizes import SIZES
from lwm.models.transformer import LWM, TransformerConfig
from lwm.parallel.layout import zigzag_order
from lwm.parallel.sharding import batch_shardings, shardings

MODEL = LWM(
    TransformerConfig(
        vocab_size=40,
        vision_vocab_size=24,
        width=32,
        ffn=48,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        rope_theta=1000.0,
        attention_block=4,
        ffn_chunk=2,
        loss_chunk=2,
    )
)
B, T = 24, 112  # T is no product of other dimensions, so that it can be found in a program
SINGLE = [dict(data=8), dict(fsdp=8), dict(tensor=2), dict(seq=8)]  # axes that the last mesh has as well
MESHES = [*(pytest.param(axes, marks=pytest.mark.slow) for axes in SINGLE), dict(data=2, tensor=2, seq=2)]


def _batch():
    """Random tokens in segments of random lengths, with padding at the end of some rows."""
    rng = np.random.default_rng(0)
    starts = rng.random((B, T)) < 0.1
    segments = 1 + np.cumsum(starts, axis=1)
    segments[: B // 2, -5:] = 0
    first = np.concatenate([np.ones((B, 1), bool), segments[:, 1:] != segments[:, :-1]], axis=1)
    begin = np.maximum.accumulate(np.where(first, np.arange(T), 0), axis=1)
    return dict(
        tokens=rng.integers(0, 24, (B, T)).astype(np.int32),
        targets=rng.integers(0, 24, (B, T)).astype(np.int32),
        weights=np.where(segments > 0, rng.random((B, T)), 0).astype(np.float32),
        segments=segments.astype(np.int32),
        positions=(np.arange(T) - begin).astype(np.int32),
        is_vision=rng.random((B, T)) < 0.5,
        targets_are_vision=rng.random((B, T)) < 0.5,
    )


def _dimensions(program):
    """All dimensions of all arrays that a device holds at any time."""
    shapes = re.findall(r"\w\d+\[([\d,]+)\]", program.as_text())
    return {int(dimension) for shape in shapes for dimension in shape.split(",")}


BATCH = _batch()
step = jax.value_and_grad(lambda params, batch: MODEL.loss(params, batch, None), has_aux=True)


@pytest.fixture(scope="module")
def params():
    params = jax.jit(MODEL.init)(jax.random.key(0), BATCH)
    return jax.tree.map(lambda p: np.asarray(p if bool((p == 1).all()) else 8 * p), params)


@pytest.fixture(scope="module")
def expected(params):
    return jax.tree.map(np.asarray, jax.jit(step)(params, BATCH))


@pytest.mark.parametrize(
    "axes", MESHES, ids=lambda axes: ",".join(f"{name}={size}" for name, size in axes.items())
)
def test_loss_and_gradients_are_those_of_one_device(params, expected, mesh_of, axes):
    mesh = mesh_of(**axes)
    batch = {name: x[:, zigzag_order(T, mesh.shape["seq"])] for name, x in BATCH.items()}
    places = shardings(MODEL.PARTITION_RULES, params, mesh)
    sharded = jax.device_put((params, batch), (places, batch_shardings(batch, mesh)))
    with jax.set_mesh(mesh):
        program = jax.jit(step, out_shardings=(None, places)).lower(*sharded).compile()
        (loss, metrics), grad = program(*sharded)
    if axes.get("seq", 1) > 1:
        assert T // axes["seq"] in _dimensions(program) and T not in _dimensions(program), "a whole sequence"
    (expected_loss, expected_metrics), expected_grad = expected
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
    for (path, leaf), other in zip(
        jax.tree.leaves_with_path(grad), jax.tree.leaves(expected_grad), strict=True
    ):
        scale = max(1.0, np.abs(other).max())
        np.testing.assert_allclose(leaf / scale, other / scale, atol=1e-5, err_msg=jax.tree_util.keystr(path))


@pytest.mark.slow
def test_many_turns_of_the_zigzag_give_the_same(params, expected, mesh_of):
    mesh = mesh_of(data=2, seq=4)
    batch = {name: x[:, zigzag_order(T, 4, 7)] for name, x in BATCH.items()}
    model = LWM(dataclasses.replace(MODEL.config, stripe=7))
    places = shardings(model.PARTITION_RULES, params, mesh), batch_shardings(batch, mesh)
    with jax.set_mesh(mesh):
        grad = jax.jit(jax.grad(lambda *x: model.loss(*x, None)[0]))(*jax.device_put((params, batch), places))
    for ours, theirs in zip(jax.tree.leaves(grad), jax.tree.leaves(expected[1]), strict=True):
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_large_sizes_have_shardings_on_every_mesh(mesh_of, size):
    kinds = dict(tokens=jnp.int32, is_vision=jnp.bool_, positions=jnp.int32, segments=jnp.int32)
    batch = {name: jax.ShapeDtypeStruct((8, 64), dtype) for name, dtype in kinds.items()}
    model = LWM(TransformerConfig(**SIZES[size]))
    params = jax.eval_shape(model.init, jax.random.key(0), batch)
    for axes in (dict(data=8), dict(fsdp=8), dict(tensor=8), dict(seq=8), dict(data=2, tensor=2, seq=2)):
        places = shardings(model.PARTITION_RULES, params, mesh_of(**axes))
        pieces = 8 // axes.get("data", 1)
        held = jax.tree.map(lambda p, place: np.prod(place.shard_shape(p.shape)), params, places)
        norms = (2 * model.config.layers + 1) * model.config.width
        total = sum(p.size for p in jax.tree.leaves(params))
        assert sum(jax.tree.leaves(held)) == (total - norms) // pieces + norms
