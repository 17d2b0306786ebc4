"""Rows in 16 bits: how far off they may be, and what stays exact."""

import jax
import jax.numpy as jnp
import numpy as np

from lwm.ops.wire import from_int16, to_int16


def test_numbers_are_off_by_2_to_the_minus_16_of_the_largest_in_their_row(rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 3, 64)) * 10.0 ** rng.integers(-20, 20, (2, 5, 3, 1)), jnp.float32)
    codes, scale = jax.jit(to_int16)(x)
    assert codes.dtype == jnp.int16 and scale.shape == (2, 5, 3)

    def off(y):
        return float(jnp.max(jnp.max(jnp.abs(y - x), axis=-1) / jnp.max(jnp.abs(x), axis=-1)))

    assert off(from_int16(codes, scale)) <= 1.01 * 2.0**-16
    assert off(from_int16(codes, scale)) < 0.01 * off(x.astype(jnp.bfloat16).astype(jnp.float32))


def test_zeros_the_largest_and_its_negative_stay(rng):
    x = jnp.asarray([[[[0.0, 0.0]], [[-3.0, 3.0]], [[0.0, 1e-30]]]])
    np.testing.assert_array_equal(from_int16(*to_int16(x))[0, 0], 0)
    np.testing.assert_allclose(from_int16(*to_int16(x)), x, rtol=1e-6)


def test_a_number_that_was_sent_arrives_the_same_when_sent_again(rng):
    """Hops that change nothing lose nothing."""
    once = from_int16(*to_int16(jnp.asarray(rng.normal(size=(1, 9, 2, 32)), jnp.float32)))
    np.testing.assert_allclose(from_int16(*to_int16(once)), once, rtol=1e-6, atol=1e-9)
