"""RMSNorm: values and gradients against float64, whatever the type of the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.rms_norm import rms_norm

EPS = 1e-3


def _inputs(dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    x_BTD, dy_BTD = (jax.random.normal(key, (2, 5, 8)).astype(dtype) for key in keys[:2])
    return 0.1 * x_BTD, 1 + 0.5 * jax.random.normal(keys[2], (8,)), dy_BTD


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_values_and_gradients(dtype, tolerance):
    x_BTD, scale_D, dy_BTD = _inputs(dtype)
    out_BTD, pull = jax.vjp(lambda x, scale: rms_norm(x, scale, EPS), x_BTD, scale_D)
    dx_BTD, dscale_D = pull(dy_BTD)
    assert (out_BTD.dtype, dx_BTD.dtype, dscale_D.dtype) == (dtype, dtype, jnp.float32)

    x, scale, dy = (np.asarray(a, np.float64) for a in (x_BTD, scale_D, dy_BTD))
    root = np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + EPS)
    expected_dx = scale * dy / root - x * np.mean(scale * dy * x, axis=-1, keepdims=True) / root**3
    out = np.asarray(out_BTD, np.float64)
    np.testing.assert_allclose(out, x / root * scale, rtol=2 * tolerance, atol=1e-6)
    dx_error = np.abs(np.asarray(dx_BTD, np.float64) - expected_dx)
    assert np.max(dx_error) < 2 * tolerance * np.max(np.abs(expected_dx))
    np.testing.assert_allclose(dscale_D, np.sum(dy * x / root, axis=(0, 1)), rtol=1e-5, atol=1e-5)
