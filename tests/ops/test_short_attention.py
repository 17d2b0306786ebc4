"""Attention to short sequences against float64, dense and by blocks, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.short_attention import short_attention


@pytest.mark.parametrize(
    "axes, block, heads",
    [
        pytest.param(dict(seq=1), 64, 2, id="dense"),
        pytest.param(dict(seq=1), 3, 2, id="blocks"),
        pytest.param(dict(data=2, tensor=2, seq=2), 64, 2, id="dense, cut all ways"),
        pytest.param(dict(fsdp=4, tensor=2), 3, 1, id="blocks, rows and heads that do not divide"),
    ],
)
def test_equals_the_textbook(dense64, mesh_of, qkv, axes, block, heads):
    """Values and gradients; some keys are padding, and one row has none but padding."""
    q, k, v, dout = qkv(2, 6, 5, heads, heads, 4)
    there = np.array([[True, False, True, True, False], [False] * 5])

    @jax.jit(compiler_options={"xla_backend_optimization_level": 0})
    def both(dout, *inputs):
        out, pull = jax.vjp(lambda *x: short_attention(*x, there, block=block), *inputs)
        return out, *pull(dout)

    with jax.set_mesh(mesh_of(**axes)):
        got = both(dout, q, k, v)
    want = dense64.attention(q, k, v, dout, np.broadcast_to(there[:, None], (2, 6, 5)))
    for name, x, y in zip(("out", "dq", "dk", "dv"), got, want, strict=False):
        assert dense64.error(x, y) <= 5e-6, name
    assert not np.any(got[0][1]) and not np.any(np.asarray(got[2])[~there])


def test_arrays_that_do_not_go_together():
    q, k = jnp.ones((1, 4, 2, 4)), jnp.ones((1, 6, 2, 4))
    for call, words in (
        (lambda: short_attention(q, k, k[:, :5]), "v_BSKH: shape"),
        (lambda: short_attention(q[:, :, :1], k, k), "N: 1 query heads; needs a multiple of K=2"),
        (lambda: short_attention(q, k, k, jnp.ones((1, 5), bool)), "k_segments_BS: shape"),
        (lambda: short_attention(q, k, k, block=0), "block: 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
