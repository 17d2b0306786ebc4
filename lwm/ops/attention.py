"""Attention: the dense reference."""

import jax
import jax.numpy as jnp


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    causal: bool,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
) -> jax.Array:
    """Softmax attention with all T x S scores at once: the reference for everything else here.

    Args:
      q_BTNH: queries; head n reads key/value head n // G, G = N / K.
      k_BSKH, v_BSKH: keys and values.
      causal: query i sees keys j <= i only.
      q_segments_BT, k_segments_BS: a query sees keys of its own segment only; segment 0 is padding, sees
        nothing and is not seen.

    Returns:
      out_BTNH in the dtype of q; rows that see nothing are exactly zero, and so are their gradients.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = (
        jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32) * H**-0.5
    )
    seen = jnp.ones((1, 1, 1, T, S), bool)
    if causal:
        seen &= jnp.arange(T)[:, None] >= jnp.arange(S)
    if q_segments_BT is not None:
        q_BT1, k_B1S = q_segments_BT[:, :, None], k_segments_BS[:, None, :]
        seen &= ((q_BT1 == k_B1S) & (q_BT1 > 0))[:, None, None]
    scores_BKGTS = jnp.where(seen, scores_BKGTS, -jnp.inf)
    max_BKGT1 = jax.lax.stop_gradient(jnp.max(scores_BKGTS, axis=-1, keepdims=True))
    weights_BKGTS = jnp.exp(scores_BKGTS - jnp.where(max_BKGT1 > -jnp.inf, max_BKGT1, 0.0))
    sum_BKGT1 = jnp.sum(weights_BKGTS, axis=-1, keepdims=True)
    weights_BKGTS = (weights_BKGTS / jnp.where(sum_BKGT1 > 0, sum_BKGT1, 1.0)).astype(v_BSKH.dtype)
    out = jnp.einsum("BKGTS,BSKH->BTKGH", weights_BKGTS, v_BSKH, preferred_element_type=jnp.float32)
    return out.reshape(B, T, N, H).astype(q_BTNH.dtype)
