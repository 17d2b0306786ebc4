"""Exact cross-attention over devices with stationary keys (LV-XAttn, arXiv 2502.02406).

Text that looks at video has some thousand queries and up to millions of keys. Ring attention sends the keys;
here they stay, and the queries go round with what they have gathered so far: the output and the log-sum-exp
of its softmax. A device sends about T / S of what it would in a ring (`xattn_traffic.py` has it to the byte).

    forward     q: n - 1 hops; out and lse: n - 1 hops
    backward    q, dout, lse, delta: n - 1 hops; dq, in float32: n - 1 hops. dK and dV stay, in float32

lse starts at -inf, "has seen nothing", and parts are joined by logaddexp with the larger one as the shift, so
neither few keys nor large scores disturb the softmax. What overlaps: `round_trip.py`; what is on the wire,
and how exact it is: `xattn_ways.py`.

All cross-attention layers of a model look at the same features y. `lv_xattn_projected` therefore keeps, of
each layer, its input x, its output and lse; K = y W_K and V = y W_V are computed again in the backward.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name, checkpoint_policies

from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, per_device, pieces, spec
from lwm.ops.masks import Mask
from lwm.ops.streamed_keys import features_grad, project, project_grad, stream, stream_grad
from lwm.ops.xattn_arguments import check_features, check_heads, check_options, chunks_of, fit, segment_ids
from lwm.ops.xattn_ways import How, backward, forward

KEY_BLOCK = 16384
NAMES = "attention_out", "attention_lse"


def lv_xattn(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    *,
    ordered: bool = False,
    frame_bits: int = 0,
    softcap: float = 0.0,
    block: int = 512,
    key_block: int = KEY_BLOCK,
    way: str = "rotate_queries",
) -> jax.Array:
    """Attention of T queries to S keys, both cut over "seq" of the mesh in context, in natural order.

    B is cut over ("data", "fsdp"), heads over "tensor". T and S are filled up inside to what "seq" divides.
    Without a mesh the same code runs on one device and sends nothing.

    Args:
      q_BTNH: queries, any float dtype; query head n reads key head n // (N / K).
      k_BSKH, v_BSKH: keys and values in the dtype of q.
      q_segments_BT: integers; a query sees keys of its own id, and 0 sees nothing. None: sees all keys that
        there are.
      k_segments_BS: integers, 0 = not there, seen by nobody; or, if q_segments is None, bools, False = not
        there. None: all are there.
      ordered: ids are in order, and a query sees keys from id 1 up to its own: text after frame f sees frames
        1 … f. Needs both segments.
      frame_bits: with `ordered`, ids are (clip << frame_bits) + frame, and a query sees frames of its own
        clip only (`masks.Mask`); 0 = all are of one clip.
      softcap: scores become softcap * tanh(scores / softcap); 0 = as they are.
      block: most positions in a block of scores.
      key_block: in the backward, gradients of so many keys of a device are made at a time and added to those
        that stay; 0 = of all.
      way: "rotate_queries" is LV-XAttn; "rotate_keys" and "gather_queries" give the same result and send
        something else. `xattn_traffic.choose` says which sends least.

    Returns:
      out_BTNH in the dtype of q; rows that see nothing are exactly 0 and have no gradients. Residuals carry
      the names "attention_out" and "attention_lse" for rematerialisation policies.

    Raises:
      ValueError: shapes or dtypes that do not fit together; the mesh does not divide B or the heads; segments
        of another shape or kind, q_segments without k_segments, `ordered` without both; frame_bits without
        `ordered`; block < 1; softcap < 0; an unknown way.
    """
    check_heads(q_BTNH, k_BSKH, v_BSKH)
    check_options(block=block, softcap=softcap, key_block=key_block, way=way)
    n, (T, S) = pieces(SEQUENCE), (q_BTNH.shape[1], k_BSKH.shape[1])
    chunks = chunks_of(fit(S, n) // n, key_block) if key_block and way == "rotate_queries" else 1
    T_fit = fit(T, n, rotates=way == "rotate_queries")
    S_fit = fit(S, n * chunks, rotates=way == "rotate_keys")
    ids = segment_ids(q_segments_BT, k_segments_BS, q_BTNH, k_BSKH, T_fit, S_fit, ordered=ordered)
    how = How(n, Mask(causal=False, ordered=ordered, frame_bits=frame_bits), block, softcap, chunks)
    heads, rows = spec(ROWS, SEQUENCE, TENSOR, ()), spec(ROWS, SEQUENCE)
    attend = per_device(functools.partial(attend_shards, way, how), (heads, heads, heads, rows, rows), heads)
    out = attend(_fill(q_BTNH, T_fit), _fill(k_BSKH, S_fit), _fill(v_BSKH, S_fit), *ids)
    return out[:, :T]


def lv_xattn_projected(
    x_BTD: jax.Array,
    y_BSC: jax.Array,
    wq_DNH: jax.Array,
    wk_CKH: jax.Array,
    wv_CKH: jax.Array,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    *,
    ordered: bool = False,
    frame_bits: int = 0,
    softcap: float = 0.0,
    block: int = 512,
    key_block: int = 4096,
) -> jax.Array:
    """`lv_xattn(x W_Q, y W_K, y W_V)` that keeps no queries, keys or values for its backward.

    Residuals are x, out, lse, the weights and y, which is an argument and the same array in every layer: what
    a layer adds does not depend on S. The gradients reach x, y and the three weights.

    Args:
      x_BTD: input of the layer; T is cut over "seq".
      y_BSC: features, in the dtype of x; S is cut over "seq".
      wq_DNH, wk_CKH, wv_CKH: weights; heads are cut over "tensor". They are used in the dtype of x.
      q_segments_BT, k_segments_BS, ordered, frame_bits, softcap, block: as for `lv_xattn`.
      key_block: how many keys of a device exist at a time. Every device takes the queries of all devices,
        B T N H numbers, and walks over its features once in each direction (`streamed_keys.py`): right where
        T is much shorter than S. 0: all keys of a device exist during each pass, and the queries travel.

    Returns:
      out_BTNH in the dtype of x. Residuals carry the names "attention_out" and "attention_lse".

    Raises:
      ValueError: as `lv_xattn`; or key_block < 0.
    """
    check_features(x_BTD, y_BSC, wq_DNH, wk_CKH, wv_CKH)
    check_options(block=block, softcap=softcap, key_block=key_block)
    n, (T, S) = pieces(SEQUENCE), (x_BTD.shape[1], y_BSC.shape[1])
    chunks = chunks_of(fit(S, n) // n, key_block or KEY_BLOCK)
    T_fit, S_fit = fit(T, n, rotates=not key_block), fit(S, n * chunks)
    how = How(n, Mask(causal=False, ordered=ordered, frame_bits=frame_bits), block, softcap, chunks)
    whole, rows = spec(ROWS, SEQUENCE, ()), spec(ROWS, SEQUENCE)
    weights, heads = spec((), TENSOR, ()), spec(ROWS, SEQUENCE, TENSOR, ())
    attend = per_device(
        functools.partial(_attend_projected, key_block > 0, how),
        (whole, whole, weights, weights, weights, rows, rows),
        heads,
    )

    # What is filled up here is filled up again in the backward, not kept once for each layer.
    @functools.partial(jax.checkpoint, policy=checkpoint_policies.save_only_these_names(*NAMES))
    def filled(x_BTD, y_BSC, *weights_and_segments):
        *weights, q_segments_BT, k_segments_BS = weights_and_segments
        ids = segment_ids(q_segments_BT, k_segments_BS, x_BTD, y_BSC, T_fit, S_fit, ordered=ordered)
        return attend(_fill(x_BTD, T_fit), _fill(y_BSC, S_fit), *weights, *ids)[:, :T]

    return filled(x_BTD, y_BSC, wq_DNH, wk_CKH, wv_CKH, q_segments_BT, k_segments_BS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend_shards(way, how, q, k, v, q_ids, k_ids):
    """out_BTNH of a device's queries and the keys of all, with a gradient; runs inside `per_device`.

    way, how: as for `xattn_ways.forward`; how.n = 1 is attention to the keys at hand, and sends nothing.
    """
    return _attend_forward(way, how, q, k, v, q_ids, k_ids)[0]


def _attend_forward(way, how, q, k, v, q_ids, k_ids):
    out, lse = _named(forward(way, how, q, k, v, q_ids, k_ids), q.dtype)
    return out, (q, k, v, q_ids, k_ids, out, lse)


def _attend_backward(way, how, residuals, dout):
    q, k, v, q_ids, k_ids, out, lse = residuals
    grads = backward(way, how, q, k, v, q_ids, k_ids, dout, lse, _delta(dout, out))
    return *(grad.astype(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True)), None, None


attend_shards.defvjp(_attend_forward, _attend_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend_projected(streams, how, x, y, wq, wk, wv, q_ids, k_ids):
    return _projected_forward(streams, how, x, y, wq, wk, wv, q_ids, k_ids)[0]


def _projected_forward(streams, how, x, y, wq, wk, wv, q_ids, k_ids):
    q = project(x, wq)
    if streams:
        part = stream(how, q, y, wk, wv, q_ids, k_ids)
    else:
        part = forward("rotate_queries", how, q, project(y, wk), project(y, wv), q_ids, k_ids)
    out, lse = _named(part, x.dtype)
    return out, (x, y, wq, wk, wv, q_ids, k_ids, out, lse)


def _projected_backward(streams, how, residuals, dout):
    x, y, wq, wk, wv, q_ids, k_ids, out, lse = residuals
    q, delta = project(x, wq), _delta(dout, out)
    if streams:
        dq, dy, dwk, dwv = stream_grad(how, q, y, wk, wv, q_ids, k_ids, dout, lse, delta)
    else:
        k, v = project(y, wk), project(y, wv)
        dq, dk, dv = backward("rotate_queries", how, q, k, v, q_ids, k_ids, dout, lse, delta)
        dy, dwk, dwv = features_grad(how, y, wk, wv, dk, dv)
    dx, dwq = project_grad(x, wq, dq)
    grads = zip((dx, dy, dwq, dwk, dwv), (x, y, wq, wk, wv), strict=True)
    return *(grad.astype(x.dtype) for grad, x in grads), None, None


_attend_projected.defvjp(_projected_forward, _projected_backward)


def _named(part, dtype):
    out, lse = part
    return checkpoint_name(out.astype(dtype), NAMES[0]), checkpoint_name(lse, NAMES[1])


def _delta(dout, out):
    return jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)


def _fill(x, length):
    """Zeros at the end of axis 1, up to a length; `x` itself if it has it."""
    if x.shape[1] == length:
        return x
    return jnp.pad(x, [(0, length - x.shape[1]) if axis == 1 else (0, 0) for axis in range(x.ndim)])
