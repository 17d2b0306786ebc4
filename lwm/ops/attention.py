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

from lwm.ops import flash_tpu
from lwm.ops.dropout import Dropout
from lwm.ops.dropout import check as check_dropout
from lwm.ops.masks import Mask
from lwm.ops.stripes import GAPLESS, Stripes
from lwm.ops.tiles import Tiles

Start = int | jax.Array  # a global position
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


@flash_tpu.replaces_on_tpu(flash_tpu.attend_block)
def attend_block(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    *,
    mask: Mask,
    block: int,
    q_start: Start = 0,
    k_start: Start = 0,
    stripes: Stripes = GAPLESS,
    softcap: float = 0.0,
    dropout: Dropout | None = None,
    part: Part | None = None,
) -> Part:
    """Attention by online softmax over pairs of blocks; holds block x block scores per head at a time.

    Pairs of blocks in which nothing is visible are not executed, neither by position nor by segment; those in
    which everything is visible run without a mask.

    Args:
      q_BTNH, k_BSKH, v_BSKH: queries, keys, values; any lengths.
      q_segments_BT, k_segments_BS: integers; both or neither.
      mask: who sees whom by position.
      block: most positions in a block; a length is cut into equal blocks, the last one filled up if need be.
      q_start, k_start: global position of the first query and of the first key; the others follow in order.
      stripes: gaps in that order, of queries as of keys; none by default. No block lies across one.
      softcap: scores become softcap * tanh(scores / softcap) before they are masked; 0 = as they are.
      dropout: which weights to drop from the product with the values (not from the sum that divides it).
      part: attention of the same queries to other keys, to which these are added.

    Returns:
      (out_BTNH, lse_BTN), both float32: of these keys, and of those of `part` if given.

    Raises:
      ValueError: N is not a multiple of K; arrays that do not go together; segments on one side only; a block
        below 1; a softcap below 0; a dropout rate outside [0, 1).
    """
    check_softcap(softcap)
    dropout = check_dropout(dropout)
    scale = q_BTNH.shape[-1] ** -0.5
    where = {"q_start": q_start, "k_start": k_start, "stripes": stripes}
    tiles = Tiles(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, mask=mask, block=block, **where)
    q, k, v = tiles.split_q(q_BTNH), tiles.split_k(k_BSKH), tiles.split_k(v_BSKH)

    def visit(i, j, masked, part):
        acc, top, total = part
        scores = _product("BKTH,BKSH->BKTS", q[i], k[j]) * scale
        if softcap:
            scores = softcap * jnp.tanh(scores / softcap)
        if masked:
            scores = tiles.hide(scores, i, j)
        higher = jnp.maximum(top, jnp.max(scores, axis=-1))
        # A row that has seen nothing yet has top = -inf; a shift of 0 keeps -inf - -inf away.
        shift = jnp.where(higher > -jnp.inf, higher, 0.0)
        weights, keep = jnp.exp(scores - shift[..., None]), jnp.exp(top - shift)
        total = total * keep + jnp.sum(weights, axis=-1)
        if dropout is not None:
            weights = weights * tiles.kept(dropout, i, j)
        acc = acc * keep[..., None] + _product("BKTS,BKSH->BKTH", weights.astype(v.dtype), v[j])
        return acc, higher, total

    def row(start):
        i, *before = start
        if part is None:
            zeros = jnp.zeros(q.shape[1:], jnp.float32)
            carry = zeros, jnp.full(zeros.shape[:-1], -jnp.inf), zeros[..., 0]
        else:
            carry = *before, jnp.ones(q.shape[1:-1], jnp.float32)
        acc, top, total = tiles.over_keys(i, visit, carry)
        some = jnp.where(total > 0, total, 1.0)
        return acc / some[..., None], jnp.where(total > 0, top + jnp.log(some), -jnp.inf)

    before = () if part is None else (tiles.split_q(part[0]), tiles.split_q(part[1][..., None])[..., 0])
    out, lse = lax.map(row, (jnp.arange(len(q)), *before))
    return tiles.join_q(out), tiles.join_q(lse[..., None])[..., 0]


@flash_tpu.replaces_on_tpu(flash_tpu.attend_block_grad)
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
    mask: Mask,
    block: int,
    q_start: Start = 0,
    k_start: Start = 0,
    stripes: Stripes = GAPLESS,
    softcap: float = 0.0,
    dropout: Dropout | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What these keys contribute to the gradients, by pairs of blocks.

    The weights are recomputed from `lse`, which is that of the *whole* row (all its keys, not only those
    given here), so the gradients of parts simply add up (FlashAttention-2, algorithm 2).

    Args:
      q_BTNH, k_BSKH, v_BSKH, q_segments_BT, k_segments_BS and all keywords: as for `attend_block`.
      dout_BTNH: gradient of the merged output.
      lse_BTN: float32, log-sum-exp of the whole row.
      delta_BTN: float32, sum over H of dout * out, minus the gradient of `lse` if that is used as well.

    Returns:
      (dq_BTNH, dk_BSKH, dv_BSKH), float32.

    Raises:
      ValueError: as `attend_block`.
    """
    check_softcap(softcap)
    dropout = check_dropout(dropout)
    scale = q_BTNH.shape[-1] ** -0.5
    where = {"q_start": q_start, "k_start": k_start, "stripes": stripes}
    tiles = Tiles(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, mask=mask, block=block, **where)
    q, k, v = tiles.split_q(q_BTNH), tiles.split_k(k_BSKH), tiles.split_k(v_BSKH)
    dout = tiles.split_q(dout_BTNH.astype(q.dtype))
    # Rows that saw nothing, and filler rows, get lse = +inf: their weights are exp(-inf) = 0.
    lse = tiles.split_q(jnp.where(lse_BTN > -jnp.inf, lse_BTN, jnp.inf)[..., None], jnp.inf)[..., 0]
    delta = tiles.split_q(delta_BTN[..., None])[..., 0]

    # Scores lie keys first: the products that follow then read them as they lie in memory.
    def visit(i, j, masked, grads):
        dq, dk, dv = grads
        scores = _product("BKSH,BKTH->BKST", k[j], q[i]) * scale
        if softcap:
            bent = jnp.tanh(scores / softcap)
            scores = softcap * bent
        if masked:
            scores = tiles.hide(scores, i, j, keys_first=True)
        weights = jnp.exp(scores - lse[i][:, :, None, :])
        dweights = _product("BKSH,BKTH->BKST", v[j], dout[i])
        kept = 1.0
        if dropout is not None:
            kept = tiles.kept(dropout, i, j, keys_first=True)
            dweights = dweights * kept
        dscores = weights * (dweights - delta[i][:, :, None, :])
        if softcap:
            dscores = dscores * (1 - bent * bent)
        weights, dscores = (weights * kept).astype(q.dtype), dscores.astype(q.dtype)
        dq_BKHT = _product("BKHS,BKST->BKHT", k[j].swapaxes(-1, -2), dscores)
        return (
            dq + dq_BKHT,
            dk + _product("BKST,BKTH->BKSH", dscores, q[i]),
            dv + _product("BKST,BKTH->BKSH", weights, dout[i]),
        )

    def column(dq, j):
        grads = dq, jnp.zeros(k.shape[1:]), jnp.zeros(v.shape[1:])
        dq, dk, dv = tiles.over_queries(j, visit, grads)
        return dq, (dk, dv)

    dq = jnp.zeros(q.swapaxes(-1, -2).shape)
    dq, (dk, dv) = lax.scan(column, dq, jnp.arange(len(k)))
    return tiles.join_q(dq.swapaxes(-1, -2) * scale), tiles.join_k(dk * scale), tiles.join_k(dv)


def check_softcap(softcap: float) -> None:
    """Raises ValueError for a negative softcap."""
    if softcap < 0:
        raise ValueError(f"softcap: {softcap}; bound of the scores, or 0 for none")


def _product(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)
