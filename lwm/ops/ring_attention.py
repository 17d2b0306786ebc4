"""Ring attention (Liu et al., arXiv 2310.01889): a sequence cut over devices, keys and values that travel.

The sequence lies in zigzag order over the "seq" axis: of 2n chunks, device i holds chunk i ("low") and chunk
2n - 1 - i ("high"). Its own shard is then plain causal attention in local order. When the keys of device j
arrive at device i,

    j < i    (q_low, k_low)  and (q_high, k_low)     are wholly visible, k_high not at all
    j > i    (q_high, k_low) and (q_high, k_high)    are wholly visible, q_low sees nothing

so a hop is two unmasked half-blocks on every device: (q_high, k_low), and one whose operands depend on j < i.
Both are computed as one batch of two.

How many hops, with n devices on "seq"; every transfer is sent before the work that hides it
    forward    K, V and segments: n - 1
    backward   K, V and segments: n - 1
               dK and dV: n - 1. They set out from the first device that their keys visit and travel one hop
               behind K and V; the last hop brings them home, where their own device adds its share.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lwm.ops.attention import attend_block, attend_block_grad, merge
from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, check_divides, per_device, pieces, spec
from lwm.ops.masks import EVERYTHING, Mask


def ring_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    block: int = 512,
) -> jax.Array:
    """Causal attention over a sequence that may be cut over the devices of the mesh in context.

    Takes global arrays; with the mesh that `jax.set_mesh` put in context, B is cut over ("data", "fsdp"),
    T over "seq" and heads over "tensor". Without a mesh the same code runs on one device.

    Args:
      q_BTNH, k_BTKH, v_BTKH: any float dtype, N a multiple of K; T in zigzag order for the size of "seq"
        (natural order if that is 1).
      segments_BT: integers in the same order as T, or None. A query sees keys of its own segment only;
        segment 0 is padding: its rows are exactly zero.
      block: most positions in a block of scores.

    Returns:
      out_BTNH in the dtype of q. Its residuals carry the names "attention_out" and "attention_lse" for
      rematerialisation policies.

    Raises:
      ValueError: the mesh does not divide B, T (two chunks for each device) or the heads.
    """
    (B, T, N, _), K, n = q_BTNH.shape, k_BTKH.shape[2], pieces(SEQUENCE)
    for letter, length, axes in (("B", B, ROWS), ("N", N, TENSOR), ("K", K, TENSOR)):
        check_divides(letter, length, axes)
    if n > 1 and T % (2 * n):
        raise ValueError(f"T: {T} is not a multiple of {2 * n}, two chunks for each of seq={n} devices")
    heads, tokens = spec(ROWS, SEQUENCE, TENSOR, ()), spec(ROWS, SEQUENCE)
    ring = functools.partial(_ring, n, block)
    return per_device(ring, (heads, heads, heads, tokens), heads)(q_BTNH, k_BTKH, v_BTKH, segments_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(n, block, q, k, v, segments):
    return _ring_forward(n, block, q, k, v, segments)[0]


def _ring_forward(n, block, q, k, v, segments):
    if n == 1:
        out, lse = attend_block(q, k, v, segments, segments, mask=Mask(), block=block)
    else:
        out, lse = _forward_hops(q, k, v, segments, n, block)
    out = checkpoint_name(out.astype(q.dtype), "attention_out")
    lse = checkpoint_name(lse, "attention_lse")
    return out, (q, k, v, segments, out, lse)


def _ring_backward(n, block, residuals, dout):
    q, k, v, segments, out, lse = residuals
    delta = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    mine, theirs = (q, segments, dout, lse, delta), (k, v, segments)
    if n == 1:
        grads = _grad(mine, theirs, mask=Mask(), block=block)
    else:
        grads = _backward_hops(mine, theirs, n, block)
    dq, dk, dv = (grad.astype(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))
    return dq, dk, dv, None


_ring.defvjp(_ring_forward, _ring_backward)


def _forward_hops(q, k, v, segments, n, block):
    def hop(low, high, theirs, distance):
        earlier = distance <= lax.axis_index(SEQUENCE)
        queries, query_segments = _meet(_high, (q, segments), earlier)
        keys, values, key_segments = _meet(_low, theirs, earlier)
        parts = attend_block(queries, keys, values, query_segments, key_segments, mask=EVERYTHING, block=block)
        (first, first_lse), (second, second_lse) = zip(*(jnp.split(x, 2) for x in parts), strict=True)
        low = merge(low, (second, jnp.where(earlier, second_lse, -jnp.inf)))
        high = merge(merge(high, (first, first_lse)), (second, jnp.where(earlier, -jnp.inf, second_lse)))
        return low, high

    def send_on_and_hop(carry, distance):
        low, high, theirs = carry
        arriving = _send(theirs, n)
        return (*hop(low, high, theirs, distance), arriving), None

    theirs = _send((k, v, segments), n)
    part = attend_block(q, k, v, segments, segments, mask=Mask(), block=block)
    carry = _low(part), _high(part), theirs
    carry, _ = lax.scan(send_on_and_hop, carry, jnp.arange(1, n - 1))
    halves = hop(*carry, n - 1)
    return tuple(jnp.concatenate(pair, axis=1) for pair in zip(*halves, strict=True))


def _backward_hops(mine, theirs, n, block):
    def hop(dq, theirs, distance):
        earlier = distance <= lax.axis_index(SEQUENCE)
        grads = _grad(_meet(_high, mine, earlier), _meet(_low, theirs, earlier), mask=EVERYTHING, block=block)
        (dq_high, dq_other), (dk_low, dk_other), (dv_low, dv_other) = (jnp.split(x, 2) for x in grads)
        dq = dq + _place(dq_other, earlier) + _place(dq_high, False)
        return dq, tuple(
            _place(low, True) + _place(other, earlier)
            for low, other in ((dk_low, dk_other), (dv_low, dv_other))
        )

    def send_on_and_hop(carry, distance):
        dq, theirs, dkv = carry
        arriving, carried = _send(theirs, n), _send(dkv, n)
        dq, more = hop(dq, theirs, distance)
        return (dq, arriving, _add(carried, more)), None

    # Of the own shard, (q_high, k_low) hides the first transfer and the two diagonal chunks hide the last.
    travelling = _send(theirs, n)
    dq, dk, dv = _grad(_high(mine), _low(theirs), mask=EVERYTHING, block=block)
    dq, own = _place(dq, False), (_place(dk, True), _place(dv, True))
    arriving = _send(travelling, n) if n > 2 else None
    dq, dkv = hop(dq, travelling, 1)
    if n > 2:
        carry = dq, arriving, dkv
        (dq, travelling, dkv), _ = lax.scan(send_on_and_hop, carry, jnp.arange(2, n - 1))
        carried = _send(dkv, n)
        dq, more = hop(dq, travelling, n - 1)
        dkv = _add(carried, more)
    home = _send(dkv, n)
    diagonal = _grad(_fold(mine), _fold(theirs), mask=Mask(), block=block)
    dq_own, *dkv_own = (x.reshape(y.shape) for x, y in zip(diagonal, (dq, *home), strict=True))
    return dq + dq_own, *_add(home, _add(own, dkv_own))


def _grad(mine, theirs, *, mask, block):
    (q, q_segments, dout, lse, delta), (k, v, k_segments) = mine, theirs
    return attend_block_grad(q, k, v, q_segments, k_segments, dout, lse, delta, mask=mask, block=block)


def _send(tree, n):
    """To the next device on the ring; what arrives is what the previous one sent."""
    return lax.ppermute(tree, SEQUENCE, [(i, (i + 1) % n) for i in range(n)])


def _low(tree):
    return jax.tree.map(lambda x: x[:, : x.shape[1] // 2], tree)


def _high(tree):
    return jax.tree.map(lambda x: x[:, x.shape[1] // 2 :], tree)


def _meet(always, tree, earlier):
    """One side of a hop as a batch of two: the half that always takes part, then the one that varies."""
    return jax.tree.map(
        lambda first, low, high: jnp.concatenate([first, jnp.where(earlier, low, high)]),
        always(tree),
        _low(tree),
        _high(tree),
    )


def _place(half, as_low):
    """A gradient of the low or high half as a gradient of the whole shard."""
    zero = jnp.zeros_like(half)
    return jnp.concatenate([jnp.where(as_low, half, zero), jnp.where(as_low, zero, half)], axis=1)


def _fold(tree):
    """[B, 2c, ...] to [2B, c, ...]: the two chunks of a shard as two rows."""
    return jax.tree.map(lambda x: x.reshape(2 * x.shape[0], x.shape[1] // 2, *x.shape[2:]), tree)


def _add(a, b):
    return tuple(x + y for x, y in zip(a, b, strict=True))
