"""A training step of MultiModel on eight devices is that of one; its sizes have shardings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lwm.models.conv_blocks import ConvBlock
from lwm.models.multimodel import SIZES, MultiModel, MultiModelConfig, example
from lwm.parallel.sharding import batch_shardings, shardings
from lwm.training.optimizers import make_optimizer
from lwm.training.state import TrainState, param_shapes, shardings_of, state_shapes
from lwm.training.step import make_train_step

CONFIG = MultiModelConfig(
    **SIZES["debug"]
    | dict(experts=8, capacity_factor=0.0, dropout=0.1, resolution=8, audio_blocks=1, samples=64)
)


@pytest.fixture(scope="module")
def stepped(task_batch):
    """`stepped(mesh)`: parameters, first moments and metrics after a step from the same state."""
    model, batch = MultiModel(CONFIG), task_batch(CONFIG, rows=8)
    optimizer = make_optimizer(learning_rate=0.01, steps=10)

    @functools.cache
    def run(mesh):
        shapes, rng = state_shapes(model, optimizer, batch, mesh), np.random.default_rng(0)
        params = jax.tree.map(lambda own: 0.3 * rng.normal(size=own.shape).astype(own.dtype), shapes.params)
        moments = jax.tree.map(lambda own: np.zeros(own.shape, own.dtype), shapes.opt_state)
        state, own = TrainState(np.int32(0), params, moments, jax.random.key(0)), batch
        if mesh is not None:
            state = jax.device_put(state, shardings_of(shapes))
            own = jax.device_put(batch, batch_shardings(batch, mesh))
        state, metrics = make_train_step(model, optimizer)(state, own)
        return jax.device_get((state.params, state.opt_state[1][0].mu, metrics))

    return run


def test_gradients_of_a_short_sequence_are_those_of_one_device_where_weights_are_cut(mesh_of):
    """XLA once cut it as well, over "tensor", and summed the wrong parts."""
    rng, block = np.random.default_rng(0), ConvBlock(CONFIG)
    x_BTD = rng.normal(size=(8, 4, CONFIG.width)).astype(np.float32)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), x_BTD)["params"])
    params = jax.tree.map(lambda own: 0.3 * rng.normal(size=own.shape).astype(np.float32), params)

    def loss(params, x_BTD):
        out_BTD, _ = block.apply({"params": params}, x_BTD, np.ones(x_BTD.shape[:2], bool))
        return jnp.sum(jnp.sin(out_BTD))

    expected = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x_BTD)
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    rules = ((r"pointwise$", P("fsdp", "tensor")), (r"", P()))
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings(rules, params, mesh))
        rows = jax.device_put(x_BTD, batch_shardings(x_BTD, mesh))
        found = jax.jit(jax.grad(loss, argnums=(0, 1)))(placed, rows)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "axes", [dict(data=2, fsdp=4), dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)], ids=str
)
def test_a_step_on_eight_devices_is_that_of_one(mesh_of, stepped, axes):
    """With noise at the experts and dropout, which do not depend on the mesh."""
    expected_params, expected_mu, expected = stepped(None)
    mesh = mesh_of(**axes)
    with jax.set_mesh(mesh):
        params, mu, metrics = stepped(mesh)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(mu), jax.tree.leaves(expected_mu), strict=True):
        scale = max(1e-3, np.abs(other).max())
        np.testing.assert_allclose(leaf / scale, other / scale, atol=2e-5, err_msg=jax.tree_util.keystr(path))
    # Adam divides by the size of the gradient: where that is next to nothing, its sign is rounding.
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(expected_params), strict=True):
        assert np.mean(np.abs(ours - theirs) < 1e-4) > 0.99


@pytest.mark.parametrize("size", ["tiny", "paper"])
def test_experts_and_wide_kernels_are_cut(mesh_of, size):
    """Measured: 1 320 908 parameters of "tiny", 1 529 770 884 of "paper"."""
    model = MultiModel(MultiModelConfig(**SIZES[size]))
    shapes = param_shapes(model, jax.eval_shape(lambda: example(model.config, 8)), mesh_of(fsdp=8))
    leaves = jax.tree.leaves(shapes)
    total, held = (
        sum(own.size for own in leaves),
        sum(int(np.prod(own.sharding.shard_shape(own.shape))) for own in leaves),
    )
    assert total == {"tiny": 1_320_908, "paper": 1_529_770_884}[size] and held < total / 2
    experts = shapes["encoder"]["experts"]["w1"]
    assert experts.sharding.shard_shape(experts.shape)[0] == model.config.experts // 8
