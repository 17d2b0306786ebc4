"""The projection is x w, with the gradients of x w, whichever side is wider."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.projection import project


@pytest.mark.parametrize("D, F", [(3, 8), (8, 3), (4, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients(D, F, dtype):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (2, 5, D), (D, F), (2, 5, F)
    x, w, dy = (jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True))
    out, pull = jax.vjp(project, x, w)
    got = out, *pull(dy)
    x, w, dy = (np.asarray(a, np.float64) for a in (x, w, dy))
    expected = x @ w, dy @ w.T, np.einsum("btd,btf->df", x, dy)
    for array, reference in zip(got, expected, strict=True):
        assert array.dtype == dtype
        tolerance = 1e-6 if dtype == jnp.float32 else 2**-7
        np.testing.assert_allclose(
            np.asarray(array, np.float64), reference, rtol=tolerance, atol=tolerance * np.abs(reference).max()
        )
