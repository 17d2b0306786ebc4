"""Dropout: its mean, that it depends on global positions only, and that the ring drops what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.dropout import Dropout, check
from lwm.ops.masks import Mask


def kept(dropout, B=2, N=4, T=64, S=64):
    return np.asarray(dropout.kept(*np.ogrid[:B, :N, :T, :S]))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_and_mean(rate):
    """A share of `rate` is dropped, and what is kept makes up for it, along every axis."""
    x = kept(Dropout(rate, np.uint32(3)))
    assert set(np.unique(x)) == {np.float32(0), np.float32(1 / (1 - rate))}
    for axis in range(4):
        rest = tuple(other for other in range(4) if other != axis)
        count = x.size / x.shape[axis]
        spread = np.sqrt(rate / (1 - rate) / count)
        assert np.all(np.abs(x.mean(axis=rest) - 1) < 5 * spread)


def test_neighbours_are_not_related():
    x = kept(Dropout(0.5, np.uint32(11)), T=128, S=128) - 1.0
    for axis in range(4):
        for step in (1, 2, 3):
            if step < x.shape[axis]:
                a, b = np.delete(x, range(step), axis), np.delete(x, range(-step, 0), axis)
                assert abs(np.mean(a * b)) < 5 / np.sqrt(a.size)
    other = kept(Dropout(0.5, np.uint32(12)), T=128, S=128) - 1.0
    assert abs(np.mean(x * other)) < 5 / np.sqrt(x.size)


def test_global_indices_only():
    whole = kept(Dropout(0.3, jnp.uint32(5)))
    part = Dropout(0.3, jnp.uint32(5), row=1, head=2)
    rows, heads, queries, keys = np.ogrid[:1, :2, 10:20, 30:50]
    np.testing.assert_array_equal(jax.jit(part.kept)(rows, heads, queries, keys), whole[1:, 2:, 10:20, 30:50])


def test_rates():
    assert check(None) is None and check(Dropout(0.0, 1)) is None
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="rate"):
            check(Dropout(rate, 1))


@pytest.mark.parametrize(
    "axes, layout, ulysses, mask",
    [
        ({}, "zigzag", 1, Mask()),
        ({"seq": 3}, "contiguous", 1, Mask(causal=False)),
        ({"seq": 4}, "zigzag", 2, Mask()),
        ({"data": 2, "tensor": 2, "seq": 2}, "zigzag", 1, Mask(causal=False)),
    ],
)
def test_the_ring_drops_the_same_everywhere(exact, mesh_of, rng, axes, layout, ulysses, mask):
    """Against float64 with the weights dropped that `kept` says, in every mesh and layout."""
    inputs = exact.make(rng, 2, 48, 4, 2, ids="segments")
    dropout = Dropout(0.3, np.uint32(9))
    options = {"mask": mask, "layout": layout, "ulysses": ulysses, "block": 7, "dropout": dropout}
    exact.check(mesh_of(**axes), *inputs, kept=kept(dropout, 2, 4, 48, 48).astype(np.float64), **options)


def test_mean_of_many_seeds_is_no_dropout(exact, mesh_of, rng):
    """Inverted scaling: over 300 seeds the output averages to that without dropout."""
    from lwm.ops.ring_attention import ring_attention

    (q, k, v, _), _, _ = exact.make(rng, 1, 24, 2, 1)
    drop = jax.jit(jax.vmap(lambda seed: ring_attention(q, k, v, dropout=Dropout(0.2, seed))))
    outs = np.asarray(drop(jnp.arange(300, dtype=jnp.uint32)))
    plain, spread = ring_attention(q, k, v), outs.std(axis=0) / np.sqrt(300)
    assert np.all(outs.std(axis=0)[:, 1:] > 1e-3)
    assert np.mean(np.abs(outs.mean(axis=0) - plain) < 3 * spread + 1e-6) > 0.98
