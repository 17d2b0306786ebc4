"""Attention inside frames against the dense reference, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.frame_attention import frame_attention

FRAMES = 8


@pytest.mark.parametrize("axes", [dict(seq=1), dict(seq=4), dict(data=2, tensor=2, seq=2)], ids=str)
def test_equals_dense_inside_every_frame(dense64, mesh_of, qkv, axes):
    """Three queries and five keys in a frame."""
    q, k, v, dout = qkv(2, 3 * FRAMES, 5 * FRAMES, 4, 2, 4)

    @jax.jit
    def run(dout, *inputs):
        out, pull = jax.vjp(lambda *x: frame_attention(*x, frames=FRAMES, block=2), *inputs)
        return out, *pull(dout)

    with jax.set_mesh(mesh_of(**axes)):
        got = run(dout, q, k, v)
    seen = np.arange(3 * FRAMES)[:, None] // 3 == np.arange(5 * FRAMES) // 5
    want = dense64.attention(q, k, v, dout, np.broadcast_to(seen, (2, *seen.shape)))
    for name, x, y in zip(("out", "dq", "dk", "dv"), got, want, strict=False):
        assert dense64.error(x, y) <= 5e-6, name


@pytest.mark.parametrize(
    "frames, words", [(0, "frames: 0"), (5, "frames: 5; must divide T=24"), (3, "not a multiple of seq=2")]
)
def test_frames_that_do_not_fit(mesh_of, frames, words):
    q, k = jnp.ones((1, 24, 2, 4)), jnp.ones((1, 48, 2, 4))
    with jax.set_mesh(mesh_of(seq=2)), pytest.raises(ValueError, match=words):
        frame_attention(q, k, k, frames=frames)
