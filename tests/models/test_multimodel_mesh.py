"""A training step of MultiModel on eight devices is that of one; its sizes have shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.multimodel import SIZES, MultiModel, MultiModelConfig, example
from lwm.parallel.sharding import batch_shardings
from lwm.training.optimizers import make_optimizer
from lwm.training.state import init_state, param_shapes, shardings_of, state_shapes
from lwm.training.step import make_train_step

CONFIG = MultiModelConfig(
    **SIZES["debug"]
    | dict(experts=8, capacity_factor=0.0, dropout=0.1, resolution=8, audio_blocks=1, samples=64)
)
# The programs are tiny: compiling them well takes longer than running them badly.
FAST = {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize(
    "axes",
    [
        dict(data=2, fsdp=4),
        pytest.param(dict(fsdp=8), marks=pytest.mark.slow),
        pytest.param(dict(data=2, fsdp=2, tensor=2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_step_on_eight_devices_is_that_of_one(mesh_of, task_batch, axes):
    """With noise at the experts and dropout, which do not depend on the mesh."""
    model, batch = MultiModel(CONFIG), task_batch(CONFIG, rows=8)
    optimizer = make_optimizer(learning_rate=0.01, steps=10)
    key = jax.random.key(0)

    def stepped(mesh):
        state = init_state(model, optimizer, key, batch, mesh)
        # Gates start at 0, where everything is a tie but for the noise.
        shapes = jax.tree.map(lambda leaf: leaf.sharding, state)
        params = jax.tree.map(
            lambda leaf: leaf + 0.1 * jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), state.params
        )
        state = jax.device_put(state._replace(params=params), shapes)
        own = batch if mesh is None else jax.device_put(batch, batch_shardings(batch, mesh))
        step = make_train_step(model, optimizer).lower(state, own).compile(FAST)
        state, metrics = step(state, own)
        return jax.device_get((state.params, state.opt_state[1][0].mu, metrics))

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


def test_sizes_have_shardings(mesh_of):
    for size in SIZES:
        model = MultiModel(MultiModelConfig(**SIZES[size]))
        batch = jax.eval_shape(lambda model=model: example(model.config, 8))
        axes = dict(data=2, fsdp=4) if size == "debug" else dict(fsdp=8)
        shapes = param_shapes(model, batch, mesh_of(**axes))
        held = sum(np.prod(own.sharding.shard_shape(own.shape)) for own in jax.tree.leaves(shapes))
        assert held < sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 2
        if size == "debug":
            shardings_of(
                state_shapes(model, make_optimizer(learning_rate=0.1, steps=1), batch, mesh_of(**axes))
            )
