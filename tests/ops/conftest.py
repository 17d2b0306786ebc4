"""Arrays and segments for the tests of operations."""

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def qkv(rng):
    """Returns `qkv(B, T, S, N, K, H)`: queries, keys, values and a gradient of the output."""

    def make(B, T, S, N, K, H, dtype=jnp.float32):
        shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)
        return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)

    return make


@pytest.fixture
def packed(rng):
    """Returns `packed(B, T)`: segments 1, 2, … of random lengths in each row, then padding (0)."""

    def make(B, T):
        rows = np.zeros((B, T), np.int32)
        for row in rows:
            ends = np.sort(rng.choice(np.arange(1, T), size=3, replace=False))
            row[: ends[2]] = 1 + np.searchsorted(ends[:2], np.arange(ends[2]), side="right")
        return jnp.asarray(rows)

    return make
