"""Softmax attention: the dense reference, the same by blocks (forward and backward), and the merge of parts.

`attend_block` computes attention of some queries to some keys and also returns the log-sum-exp of each row;
parts that saw different keys are put together by `merge`. Ring attention, sharded caches and travelling
queries are all made of these two. Sources: Blockwise Parallel Transformer (arXiv 2305.19370),
FlashAttention-2 (arXiv 2307.08691).

Rules that hold everywhere here
  - Scores are scaled by H**-0.5. Products take their inputs as they come (bfloat16 stays bfloat16) and
    accumulate in float32; the softmax is float32.
  - Query head n reads key/value head n // G with G = N / K; keys and values are never repeated.
  - Segments, where given: a query sees the keys of its own segment; segment 0 is padding, sees nothing and is
    not seen. A row that sees nothing has out = 0, lse = -inf and zero gradients.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.tiles import Tiles

Part = tuple[jax.Array, jax.Array]  # out_BTNH and lse_BTN, both float32


def attention(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    *,
    causal: bool,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
) -> jax.Array:
    """Attention with all T x S scores at once: the reference that everything else is tested against.

    Args:
      q_BTNH: queries.
      k_BSKH, v_BSKH: keys and values.
      causal: query i sees keys j <= i only.
      q_segments_BT, k_segments_BS: integers; both or neither.

    Returns:
      out_BTNH in the dtype of q.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = _product("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH) * H**-0.5
    seen = jnp.ones((1, 1, 1, T, S), bool)
    if causal:
        seen &= jnp.arange(T)[:, None] >= jnp.arange(S)
    if q_segments_BT is not None:
        q_BT1, k_B1S = q_segments_BT[:, :, None], k_segments_BS[:, None, :]
        seen &= ((q_BT1 == k_B1S) & (q_BT1 > 0))[:, None, None]
    scores_BKGTS = jnp.where(seen, scores_BKGTS, -jnp.inf)
    max_BKGT1 = lax.stop_gradient(jnp.max(scores_BKGTS, axis=-1, keepdims=True))
    weights_BKGTS = jnp.exp(scores_BKGTS - jnp.where(max_BKGT1 > -jnp.inf, max_BKGT1, 0.0))
    sum_BKGT1 = jnp.sum(weights_BKGTS, axis=-1, keepdims=True)
    weights_BKGTS /= jnp.where(sum_BKGT1 > 0, sum_BKGT1, 1.0)
    out_BTKGH = _product("BKGTS,BSKH->BTKGH", weights_BKGTS.astype(v_BSKH.dtype), v_BSKH)
    return out_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)


def merge(a: Part, b: Part) -> Part:
    """Joins attention of the same queries to two disjoint sets of keys; lse = -inf means "saw nothing"."""
    (out_a, lse_a), (out_b, lse_b) = a, b
    top = jnp.maximum(lse_a, lse_b)
    top = jnp.where(top > -jnp.inf, top, 0.0)
    weight_a, weight_b = jnp.exp(lse_a - top), jnp.exp(lse_b - top)
    total = weight_a + weight_b
    some = jnp.where(total > 0, total, 1.0)
    out = out_a * (weight_a / some)[..., None] + out_b * (weight_b / some)[..., None]
    return out, jnp.where(total > 0, top + jnp.log(some), -jnp.inf)


def attend_block(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    *,
    causal: bool,
    block: int,
) -> Part:
    """Attention by online softmax over pairs of blocks; holds block x block scores per head at a time.

    With `causal` the blocks above the diagonal are never visited and only those on it are masked. With
    segments, pairs of blocks without a common segment are skipped.

    Args:
      q_BTNH, k_BSKH, v_BSKH: queries, keys, values; any lengths.
      q_segments_BT, k_segments_BS: integers; both or neither.
      causal: query i sees keys j <= i; needs T = S.
      block: most positions in a block; a length is cut into equal blocks, the last one filled up if need be.

    Returns:
      (out_BTNH, lse_BTN), both float32.

    Raises:
      ValueError: N is not a multiple of K; causal with T != S; segments on one side only.
    """
    scale = q_BTNH.shape[-1] ** -0.5
    tiles = Tiles(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, causal=causal, block=block)
    q, k, v = tiles.split_q(q_BTNH), tiles.split_k(k_BSKH), tiles.split_k(v_BSKH)

    def visit(i, j, part, diagonal):
        acc, top, total = part
        scores = tiles.mask(_product("BKTH,BKSH->BKTS", q[i], k[j]) * scale, i, j, diagonal)
        higher = jnp.maximum(top, jnp.max(scores, axis=-1))
        # A row that has seen nothing yet has top = -inf; a shift of 0 keeps -inf - -inf away.
        shift = jnp.where(higher > -jnp.inf, higher, 0.0)
        weights, keep = jnp.exp(scores - shift[..., None]), jnp.exp(top - shift)
        acc = acc * keep[..., None] + _product("BKTS,BKSH->BKTH", weights.astype(v.dtype), v[j])
        return acc, higher, total * keep + jnp.sum(weights, axis=-1)

    def row(i):
        def add(j, part, diagonal=False):
            return tiles.if_live(i, j, lambda: visit(i, j, part, diagonal), part)

        zeros = jnp.zeros(q.shape[1:], jnp.float32)
        part = zeros, jnp.full(zeros.shape[:-1], -jnp.inf), zeros[..., 0]
        if causal:
            part = add(i, part, diagonal=True)
        acc, top, total = lax.fori_loop(0, i if causal else len(k), add, part)
        some = jnp.where(total > 0, total, 1.0)
        return acc / some[..., None], jnp.where(total > 0, top + jnp.log(some), -jnp.inf)

    out, lse = lax.map(row, jnp.arange(len(q)))
    return tiles.join_q(out), tiles.join_q(lse[..., None])[..., 0]


def attend_block_grad(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None,
    k_segments_BS: jax.Array | None,
    dout_BTNH: jax.Array,
    lse_BTN: jax.Array,
    delta_BTN: jax.Array,
    *,
    causal: bool,
    block: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What these keys contribute to the gradients, by pairs of blocks.

    The weights are recomputed from `lse`, which is that of the *whole* row (all its keys, not only those
    given here), so the gradients of parts simply add up (FlashAttention-2, algorithm 2).

    Args:
      q_BTNH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS, causal, block: as for `attend_block`.
      dout_BTNH: gradient of the merged output.
      lse_BTN: float32, log-sum-exp of the whole row.
      delta_BTN: float32, sum over H of dout * out.

    Returns:
      (dq_BTNH, dk_BSKH, dv_BSKH), float32.
    """
    scale = q_BTNH.shape[-1] ** -0.5
    tiles = Tiles(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, causal=causal, block=block)
    q, k, v = tiles.split_q(q_BTNH), tiles.split_k(k_BSKH), tiles.split_k(v_BSKH)
    dout = tiles.split_q(dout_BTNH.astype(q.dtype))
    # Rows that saw nothing, and filler rows, get lse = +inf: their weights are exp(-inf) = 0.
    lse = tiles.split_q(jnp.where(lse_BTN > -jnp.inf, lse_BTN, jnp.inf)[..., None], jnp.inf)[..., 0]
    delta = tiles.split_q(delta_BTN[..., None])[..., 0]

    # Scores lie keys first: the products that follow then read them as they lie in memory.
    def visit(i, j, diagonal):
        scores = _product("BKSH,BKTH->BKST", k[j], q[i]) * scale
        scores = tiles.mask(scores, i, j, diagonal, keys_first=True)
        weights = jnp.exp(scores - lse[i][:, :, None, :])
        dscores = weights * (_product("BKSH,BKTH->BKST", v[j], dout[i]) - delta[i][:, :, None, :])
        weights, dscores = weights.astype(q.dtype), dscores.astype(q.dtype)
        dq_BKHT = _product("BKHS,BKST->BKHT", k[j].swapaxes(-1, -2), dscores)
        return (
            dq_BKHT,
            _product("BKST,BKTH->BKSH", dscores, q[i]),
            _product("BKST,BKTH->BKSH", weights, dout[i]),
        )

    def column(dq, j):
        def add(i, grads, diagonal=False):
            dq, dk, dv = grads
            nothing = jnp.zeros(dq.shape[1:]), jnp.zeros(dk.shape), jnp.zeros(dv.shape)
            more = tiles.if_live(i, j, lambda: visit(i, j, diagonal), nothing)
            return dq.at[i].add(more[0]), dk + more[1], dv + more[2]

        grads = dq, jnp.zeros(k.shape[1:]), jnp.zeros(v.shape[1:])
        if causal:
            grads = add(j, grads, diagonal=True)
        dq, dk, dv = lax.fori_loop(j + 1 if causal else 0, len(q), add, grads)
        return dq, (dk, dv)

    dq = jnp.zeros(q.swapaxes(-1, -2).shape)
    dq, (dk, dv) = lax.scan(column, dq, jnp.arange(len(k)))
    return tiles.join_q(dq.swapaxes(-1, -2) * scale), tiles.join_k(dk * scale), tiles.join_k(dv)


def _product(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)
