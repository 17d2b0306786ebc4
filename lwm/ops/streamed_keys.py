"""Cross-attention to keys and values that exist a few at a time: K = y W_K and V = y W_V, chunk by chunk.

Features y may be far longer than the queries: a million positions of video against some thousand of text.
Each device then takes the queries of all devices (the way "gather_queries" of `xattn_ways.py`) and walks over
its own features once: a chunk is projected, attended to and forgotten. On the way back it is projected again,
and the gradients of its K and V go into those of y, W_K and W_V before the next chunk comes. Neither K and V
nor dK and dV are ever whole, and each chunk is projected once a pass, not once for every visiting shard of
queries. What is sent is as much as with travelling queries, but nothing hides it; with S / T in the hundreds
it is far below a hundredth of the work.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.attention import Part, attend_block, attend_block_grad
from lwm.ops.xattn_ways import How, add_back, cut, gather, give_back, paste


def project(x_BTD: jax.Array, w_DNH: jax.Array) -> jax.Array:
    """x W by heads: [B, T, N, H] in the dtype of x, summed in float32."""
    x_BTNH = jnp.einsum("BTD,DNH->BTNH", x_BTD, w_DNH.astype(x_BTD.dtype), preferred_element_type=jnp.float32)
    return x_BTNH.astype(x_BTD.dtype)


def project_grad(x_BTD: jax.Array, w_DNH: jax.Array, dx_BTNH: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(dx_BTD, dw_DNH), float32, from the gradient of `project(x, w)`."""
    dx_BTNH = dx_BTNH.astype(x_BTD.dtype)
    w_DNH = w_DNH.astype(x_BTD.dtype)
    dx_BTD = jnp.einsum("BTNH,DNH->BTD", dx_BTNH, w_DNH, preferred_element_type=jnp.float32)
    dw_DNH = jnp.einsum("BTD,BTNH->DNH", x_BTD, dx_BTNH, preferred_element_type=jnp.float32)
    return dx_BTD, dw_DNH


def stream(how: How, q_BTNH, y_BSC, wk_CKH, wv_CKH, q_ids_BT, k_ids_BS) -> Part:
    """Attention of this device's queries to the keys of all devices; runs inside `per_device`.

    Args:
      how: as for `xattn_ways.forward`; `how.chunks` are projected one after another.
      q_BTNH, q_ids_BT, k_ids_BS: queries and segments of this device; segments or None.
      y_BSC, wk_CKH, wv_CKH: features of this device, and the weights that make keys and values of them.

    Returns:
      (out_BTNH, lse_BTN), float32.
    """
    queries, ids = gather((q_BTNH, q_ids_BT), how.n)

    def add(part, chunk):
        y, k_ids = cut((y_BSC, k_ids_BS), chunk, how.chunks)
        k, v = project(y, wk_CKH), project(y, wv_CKH)
        return attend_block(queries, k, v, ids, k_ids, part=part, **how.options()), None

    nothing = jnp.zeros(queries.shape, jnp.float32), jnp.full(queries.shape[:3], -jnp.inf)
    part, _ = lax.scan(add, nothing, jnp.arange(how.chunks))
    return give_back(part, q_BTNH.dtype, how.n)


def stream_grad(
    how: How, q_BTNH, y_BSC, wk_CKH, wv_CKH, q_ids_BT, k_ids_BS, dout_BTNH, lse_BTN, delta_BTN
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The other way through `stream`: (dq_BTNH, dy_BSC, dwk_CKH, dwv_CKH), float32 but for dy, which is as y.

    dq and dy are those of this device's queries and features; dwk and dwv are what its features contribute.
    """
    q, q_ids, dout, lse, delta = gather((q_BTNH, q_ids_BT, dout_BTNH, lse_BTN, delta_BTN), how.n)

    def add(carry, chunk):
        dq, *grads = carry
        y, k_ids = cut((y_BSC, k_ids_BS), chunk, how.chunks)
        k, v = project(y, wk_CKH), project(y, wv_CKH)
        more, dk, dv = attend_block_grad(q, k, v, q_ids, k_ids, dout, lse, delta, **how.options())
        return (dq + more, *_add_chunk(grads, chunk, y, wk_CKH, wv_CKH, dk, dv)), None

    nothing = jnp.zeros(q.shape, jnp.float32), *_no_grads(y_BSC, wk_CKH, wv_CKH)
    (dq, *grads), _ = lax.scan(add, nothing, jnp.arange(how.chunks))
    return add_back(dq, how.n), *grads


def features_grad(
    how: How, y_BSC, wk_CKH, wv_CKH, dk_BSKH, dv_BSKH
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(dy_BSC in the dtype of y, dwk_CKH, dwv_CKH float32) from dK and dV, `how.chunks` one after another."""

    def add(grads, chunk):
        y, dk, dv = cut((y_BSC, dk_BSKH, dv_BSKH), chunk, how.chunks)
        return _add_chunk(grads, chunk, y, wk_CKH, wv_CKH, dk, dv), None

    return lax.scan(add, _no_grads(y_BSC, wk_CKH, wv_CKH), jnp.arange(how.chunks))[0]


def _no_grads(y_BSC, wk_CKH, wv_CKH):
    return jnp.zeros_like(y_BSC), *(jnp.zeros(w.shape, jnp.float32) for w in (wk_CKH, wv_CKH))


def _add_chunk(grads, chunk, y, wk, wv, dk, dv):
    """(dy, dwk, dwv) with what dK and dV of one chunk of features are worth."""
    dy, dwk, dwv = grads
    (from_k, more_wk), (from_v, more_wv) = project_grad(y, wk, dk), project_grad(y, wv, dv)
    return paste(dy, from_k + from_v, chunk), dwk + more_wk, dwv + more_wv
