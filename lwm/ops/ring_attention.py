"""Ring attention (arXiv 2310.01889)."""

import jax

from lwm.ops.attention import attention
from lwm.parallel.layout import natural_order, zigzag_order


def ring_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    block: int = 512,
) -> jax.Array:
    """Causal attention on arrays in zigzag order over the "seq" axis (dense for now)."""
    T, n = q_BTNH.shape[1], jax.sharding.get_abstract_mesh().shape.get("seq", 1)
    back, order = natural_order(T, n), zigzag_order(T, n)
    q, k, v = q_BTNH[:, back], k_BTKH[:, back], v_BTKH[:, back]
    s = None if segments_BT is None else segments_BT[:, back]
    return attention(q, k, v, causal=True, q_segments_BT=s, k_segments_BS=s)[:, order]
