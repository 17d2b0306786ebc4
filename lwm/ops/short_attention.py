"""Attention to a short sequence that every device of "seq" has: pixels to each other, or to a text.

Pictures and what they are made from are short, thousands of positions at most, however long the documents
that they stand in. So nothing travels: rows are cut over ("data", "fsdp"), queries over "seq", heads over
"tensor", and a dimension that its axes do not divide (the 5 heads of a U-Net's first level) is whole on every
device. Scores that fit into one block are made at once, by the dense reference; more by blocks.
"""

import functools

import jax

from lwm.ops.attention import attention
from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, per_device, pieces, spec
from lwm.ops.lv_xattn import attend_shards
from lwm.ops.masks import EVERYTHING
from lwm.ops.xattn_arguments import check_options, segment_ids
from lwm.ops.xattn_ways import How


def short_attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    there_BS: jax.Array | None = None,
    *,
    block: int = 512,
) -> jax.Array:
    """Softmax attention of all queries to all keys that are there.

    Args:
      q_BTNH, k_BSKH, v_BSKH: any float dtype, all alike; query head n reads key head n // (N / K).
      there_BS: bool, False = padding, which nobody sees, whatever finite numbers it holds; None: no padding.
      block: most positions in a block of scores.

    Returns:
      out_BTNH in the dtype of q; exactly 0, without gradients, in rows that have no keys.

    Raises:
      ValueError: shapes that do not go together; block < 1.
    """
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    for name, x in (("k_BSKH", k_BSKH), ("v_BSKH", v_BSKH)):
        if x.shape != (B, S, K, H):
            raise ValueError(f"{name}: shape {x.shape}; needs {(B, S, K, H)} to go with q_BTNH")
    if N % K:
        raise ValueError(f"N: {N} query heads; needs a multiple of K={K} key heads")
    check_options(block=block, softcap=0.0, key_block=0)
    ids = segment_ids(None, there_BS, q_BTNH, k_BSKH, T, S, ordered=False)
    rows, queries = _over(ROWS, B), _over(SEQUENCE, T)
    heads = _over(TENSOR, K)
    kept = spec(rows, queries, heads, ())
    seen = spec(rows, (), heads, ())
    local = functools.partial(_local, max(T, S) <= block, How(1, EVERYTHING, block))
    return per_device(local, (kept, seen, seen, spec(rows, queries), spec(rows, ())), kept)(
        q_BTNH, k_BSKH, v_BSKH, *ids
    )


def _over(axes, length):
    """The axes if they divide a dimension, else none."""
    return axes if length % pieces(axes) == 0 else ()


def _local(dense, how, q, k, v, q_ids, k_ids):
    if dense:
        return attention(q, k, v, causal=False, q_segments_BT=q_ids, k_segments_BS=k_ids)
    return attend_shards("gather_queries", how, q, k, v, q_ids, k_ids)
