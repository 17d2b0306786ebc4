"""The U-Net on one device: its published size, what reaches what, padding, bad input."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.errors import UserError
from lwm.models.unet import PARTITION_RULES, UNet
from lwm.models.unet_sizes import PREDICTIONS, SCHEDULES, SIZES, DecoderConfig
from lwm.ops import diffusion
from lwm.parallel.sharding import shardings

MODEL = UNet(DecoderConfig(**SIZES["debug"]))
B, S = 2, 5


def shapes_of(config, positions=7):
    r = config.resolution
    inputs = (1, r, r, config.image_channels), (1,), (1, positions, config.condition_width)
    return jax.eval_shape(
        lambda key: UNet(config).init(key, *map(jnp.zeros, inputs))["params"], jax.random.key(0)
    )


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def case():
    """Parameters of which none is 0, and arguments in which the second row has two positions of padding."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return rng.normal(0, max(math.prod(leaf.shape[:-1]), 9) ** -0.5, leaf.shape)

    params = jax.tree.map(lambda leaf: draw(leaf).astype(np.float32), shapes_of(MODEL.config))
    x = rng.normal(size=(B, 8, 8, 3)).astype(np.float32)
    condition = rng.normal(size=(B, S, 8)).astype(np.float32)
    there = np.array([[True] * 5, [True, False, True, True, False]])
    return params, x, np.array([3, 700], np.int32), condition, there


@pytest.fixture(scope="module")
def step():
    """(params, x, times, condition, there) to the prediction and gradients of params, x and condition."""

    def both(params, x, times, condition, there):
        out, pull = jax.vjp(
            lambda params, x, condition: MODEL.apply({"params": params}, x, times, condition, there),
            params,
            x,
            condition,
        )
        weights = jnp.sin(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return out, *pull(weights)

    return jax.jit(both)


@pytest.mark.parametrize(
    "size, total", [("debug", 63_627), ("tiny", None), ("sd21", 865_910_724)], ids=lambda x: str(x)
)
def test_sizes(size, total, mesh_of):
    """Stable Diffusion 2.1's U-Net has its published number of parameters, and the rules cut every size."""
    shapes = shapes_of(DecoderConfig(**SIZES[size]))
    if total is None:
        assert 2e5 < count(shapes) < 2e6
    else:
        assert count(shapes) == total
    for axes in (dict(data=8), dict(fsdp=8), dict(data=2, fsdp=2, tensor=2)):
        placed = shardings(PARTITION_RULES, shapes, mesh_of(**axes))
        kernel, whole = (tree["middle_0"]["conv_2"]["kernel"] for tree in (placed, shapes))
        pieces = axes.get("fsdp", 1) * axes.get("tensor", 1)
        assert math.prod(kernel.shard_shape(whole.shape)) * pieces == math.prod(whole.shape)


@pytest.mark.slow
def test_gradients_reach_everything(case, step):
    params, x, times, condition, there = case
    out, gradient, dx, dcondition = step(*case)
    assert out.shape == x.shape and out.dtype == jnp.float32
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)) and np.any(leaf), jax.tree_util.keystr(path)
    assert np.all(dx) and np.all(np.any(dcondition, axis=2) == there)


def test_padding_of_the_condition_is_not_seen(case, step):
    """Bit by bit, whatever stands there; a position that is there does make a difference."""
    params, x, times, condition, there = case
    out, gradient, *_ = step(*case)
    other = np.where(there[..., None], condition, 1e4).astype(np.float32)
    again, same, *_ = step(params, x, times, other, there)
    np.testing.assert_array_equal(out, again)
    jax.tree.map(np.testing.assert_array_equal, gradient, same)
    changed = condition.copy()
    changed[1, 3] += 1
    moved = np.abs(np.asarray(step(params, x, times, changed, there)[0]) - out).max(axis=(1, 2, 3))
    assert moved[0] == 0 and moved[1] > 1e-4


def test_rows_have_times_of_their_own(case, step):
    params, x, times, condition, there = case
    out = np.asarray(step(*case)[0])
    later = np.asarray(step(params, x, times + [0, 20], condition, there)[0])
    moved = np.abs(later - out).max(axis=(1, 2, 3))
    assert moved[0] == 0 and moved[1] > 1e-4


def test_a_new_network_adds_nothing():
    """The last layers of blocks start at zero, and so does the prediction."""
    last = "middle_0/conv_2", "middle_transformer/proj_out", "conv_out"
    inputs = jnp.ones((1, 8, 8, 3)), jnp.ones(1), jnp.ones((1, 2, 8))

    @jax.jit
    def kernels(key):
        params = MODEL.init(key, *inputs)["params"]
        return {name: _at(params, name)["kernel"] for name in (*last, "conv_in", "middle_0/conv_1")}

    drawn = kernels(jax.random.key(0))
    assert {name for name, kernel in drawn.items() if not np.any(kernel)} == set(last)


def _at(tree, path):
    for name in path.split("/"):
        tree = tree[name]
    return tree


def test_the_names_are_those_of_the_operations():
    assert (diffusion.PREDICTIONS, tuple(diffusion.SCHEDULES)) == (PREDICTIONS, SCHEDULES)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(groups=3), "groups: 3 does not divide channels = 8"),
        (dict(head_dim=5), "head_dim: 5 does not divide the 16 channels of level 1"),
        (
            dict(attention=(True,)),
            r"attention: \[True\] for multipliers = \[1, 2\]; give one for each of 2 levels",
        ),
        (dict(multipliers=()), r"multipliers: \[\] has no level"),
        (dict(blocks=0), "blocks: 0 is too small"),
        (dict(dtype="float8"), "dtype: 'float8' is not known"),
        (dict(resolution=9), "resolution: 9 is no multiple of 2"),
        (dict(prediction="x0"), "prediction: 'x0' is not known; choose from epsilon, v"),
        (dict(schedule="sqrt"), "schedule: 'sqrt' is not known; choose from cosine"),
        (dict(gamma=-1.0), "gamma: -1.0 is too small"),
        (dict(drop_rate=1.0), "drop_rate: 1.0 is too large"),
        (dict(text_layers=0), "text_layers: 0 is too small"),
        (dict(text_heads=3), "text_heads: 3 does not divide condition_width = 8"),
    ],
)
def test_impossible_sizes(changes, words):
    with pytest.raises(UserError, match=words) as error:
        dataclasses.replace(MODEL.config, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "x, times, condition, there, words",
    [
        ((2, 8, 8, 4), (2,), (2, 5, 8), (2, 5), r"x_BHWC: shape .*; needs \[B, H, W, 3\]"),
        ((2, 8, 7, 3), (2,), (2, 5, 8), (2, 5), "x_BHWC: 8 x 7; needs multiples of 2"),
        ((2, 8, 8, 3), (1,), (2, 5, 8), (2, 5), r"times_B: shape \(1,\); needs \(2,\)"),
        ((2, 8, 8, 3), (2,), (2, 5, 9), (2, 5), r"condition_BSC: shape .*; needs \[2, S, 8\]"),
        ((2, 8, 8, 3), (2,), (2, 5, 8), (2, 4), r"there_BS: shape \(2, 4\); needs \(2, 5\)"),
    ],
)
def test_inputs_that_do_not_go_together(x, times, condition, there, words):
    arrays = jnp.ones(x), jnp.ones(times), jnp.ones(condition), jnp.ones(there, bool)
    with pytest.raises(ValueError, match=words):
        MODEL.apply({"params": {}}, *arrays)
