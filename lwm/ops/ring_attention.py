"""Ring attention (Liu et al., arXiv 2310.01889): a sequence cut over devices, keys and values that travel.

The public function, and its gradient as one rule. Which queries of a device meet which keys of another is
arithmetic in meetings.py; what travels when is in ring_hops.py.

A large shard does its heads in groups, one group after the other: the buffers of a ring are then a fraction
of the shard, and as many bytes travel.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lwm.ops.attention import check_softcap
from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, check_divides, index, per_device, pieces, spec
from lwm.ops.dropout import Dropout
from lwm.ops.dropout import check as check_dropout
from lwm.ops.masks import CAUSAL, Mask
from lwm.ops.meetings import LAYOUTS, Shards
from lwm.ops.ring_hops import backward, forward
from lwm.ops.sinks import add_sinks
from lwm.ops.travel import Travel
from lwm.ops.ulysses import Group, kv_copies

# K, V and float32 output of the heads that go round together; more take turns. The results of many turns, put
# together at the end, would take more than their buffers save.
HELD_BYTES, ENOUGH_TURNS = 2**26, 4


def ring_attention(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segments_BT: jax.Array | None = None,
    *,
    mask: Mask = CAUSAL,
    layout: str = "zigzag",
    stripe: int = 0,
    block: int = 512,
    softcap: float = 0.0,
    sinks_N: jax.Array | None = None,
    dropout: Dropout | None = None,
    ulysses: int = 1,
    bidirectional: bool = False,
    wire_dtype: jnp.dtype | None = None,
) -> jax.Array:
    """Attention over a sequence that may be cut over the devices of the mesh in context.

    Takes global arrays; with the mesh that `jax.set_mesh` put in context, B is cut over ("data", "fsdp"),
    T over "seq" and heads over "tensor". Without a mesh the same code runs on one device.

    Args:
      q_BTNH, k_BTKH, v_BTKH: any float dtype, N a multiple of K; T in the order that `layout` says.
      segments_BT: integers in the same order as T, or None. A query sees keys of its own segment only;
        segment 0 is padding: its rows are exactly zero.
      mask: who sees whom, by position in the natural order.
      layout: "zigzag" (`zigzag_order(T, seq, stripe)`; balanced under causal masks) or "contiguous" (natural
        order; any T, and a window then needs its neighbours only). The same if "seq" is 1.
      stripe: positions in a stripe of zigzag; no block is longer. Short ones balance packed segments as well;
        0 = one turn, which has the fewest meetings.
      block: most positions in a block of scores.
      softcap: scores become softcap * tanh(scores / softcap); 0 = as they are.
      sinks_N: a learned logit for each head that joins the softmax once and has no value; or None.
      dropout: of attention weights, the same for every mesh and layout; or None.
      ulysses: this many neighbours on "seq" trade heads for positions, and rings of seq / ulysses devices
        remain. 1: all ring; seq: no ring. More than K is allowed: key/value heads are then sent repeatedly.
      bidirectional: half of each shard's keys and values travel each way round.
      wire_dtype: of dK and dV while they travel; None is float32.

    Returns:
      out_BTNH in the dtype of q. Its residuals carry the names "attention_out" and "attention_lse" for
      rematerialisation policies.

    Raises:
      ValueError: shapes that do not go together; the mesh does not divide B, the heads or T (zigzag: whole
        turns); `ulysses` does not divide "seq" or the heads of a device; an unknown layout, or one that has
        no stripes with a stripe.
    """
    (B, T, N, _), K, n = q_BTNH.shape, k_BTKH.shape[2], pieces(SEQUENCE)
    _check_shapes(q_BTNH, k_BTKH, v_BTKH, segments_BT, sinks_N)
    for letter, length, axes in (("B", B, ROWS), ("N", N, TENSOR), ("K", K, TENSOR)):
        check_divides(letter, length, axes)
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r}; one of {LAYOUTS}")
    if stripe < 0 or (stripe and layout != "zigzag"):
        raise ValueError(f"stripe: {stripe}; positions in a stripe of zigzag, or 0; and 0 for {layout!r}")
    unit = 2 * n * max(stripe, 1)
    if n > 1 and layout == "zigzag" and T % unit:
        what = f"stripes of {stripe}" if stripe else "chunks"
        raise ValueError(f"T: {T} is not a multiple of {unit}, two {what} for each of seq={n} devices")
    if ulysses < 1 or n % ulysses:
        raise ValueError(f"ulysses: {ulysses}; a divisor of seq={n}")
    if (N // pieces(TENSOR)) % ulysses:
        raise ValueError(f"ulysses: {ulysses}; a divisor of the {N // pieces(TENSOR)} heads of a device")
    if block < 1:
        raise ValueError(f"block: {block}; positions in a block, at least 1")
    check_softcap(softcap)
    dropout = check_dropout(dropout)

    filler = -T % n
    if filler:
        if segments_BT is None and not (mask.causal and mask.frame == 1):
            segments_BT = jnp.ones((B, T), jnp.int32)
        q_BTNH, k_BTKH, v_BTKH, segments_BT = (
            x if x is None else jnp.pad(x, ((0, 0), (0, filler)) + ((0, 0),) * (x.ndim - 2))
            for x in (q_BTNH, k_BTKH, v_BTKH, segments_BT)
        )
    plan = Plan(
        shards=Shards(
            n=n // ulysses,
            length=(T + filler) // n * ulysses,
            layout=layout,
            mask=mask,
            exact_positions=dropout is not None,
            stripe=stripe * ulysses,
        ),
        ulysses=ulysses,
        block=block,
        softcap=float(softcap),
        rate=dropout.rate if dropout is not None else 0.0,
        bidirectional=bidirectional,
        wire=None if wire_dtype is None else jnp.dtype(wire_dtype),
    )
    heads, tokens = spec(ROWS, SEQUENCE, TENSOR, ()), spec(ROWS, SEQUENCE)
    seed = None if dropout is None else jnp.asarray(dropout.seed, jnp.uint32)
    local = per_device(
        functools.partial(_local, plan), (heads, heads, heads, tokens, spec(TENSOR), spec()), heads
    )
    out_BTNH = local(q_BTNH, k_BTKH, v_BTKH, segments_BT, sinks_N, seed)
    return out_BTNH[:, :T] if filler else out_BTNH


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known about one call before tracing."""

    shards: Shards
    ulysses: int
    block: int
    softcap: float
    rate: float
    bidirectional: bool
    wire: jnp.dtype | None

    def travel(self) -> Travel:
        """How K and V go round."""
        return Travel(self.shards, stride=self.ulysses, both_ways=self.bidirectional, wire=self.wire)

    def settings(self, seed, B: int, N: int, first: int) -> dict:
        """Keywords of `attend_block` for B rows and query heads from `first` of the N of this device."""
        dropout = None
        if self.rate:
            member = index(SEQUENCE) % self.ulysses
            head = (index(TENSOR) * self.ulysses + member) * N + first
            dropout = Dropout(self.rate, seed, row=index(ROWS) * B, head=head)
        return {"block": self.block, "softcap": self.softcap, "dropout": dropout}


def _local(plan, q, k, v, segments, sinks, seed):
    """What one device does: Ulysses around the ring, sinks after it."""
    group = Group(plan.ulysses, plan.shards.layout, plan.shards.stripe // plan.ulysses)
    copies = kv_copies(k.shape[2], plan.ulysses)
    if copies > 1:
        k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))
    q, k, v = group.gather(q), group.gather(k), group.gather(v)
    out, lse = _ring(plan, q, k, v, None if segments is None else group.gather(segments), seed)
    if sinks is not None:
        N = q.shape[2]
        member = index(SEQUENCE) % plan.ulysses
        out = add_sinks(out, lse, lax.dynamic_slice_in_dim(sinks, member * N, N))
    return group.scatter(out)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _ring(plan, q, k, v, segments, seed):
    return _ring_forward(plan, q, k, v, segments, seed)[0]


def _ring_forward(plan, q, k, v, segments, seed):
    done = []
    for turn in _turns(plan, q, k):
        mine, theirs = _after(done, (turn.heads(q), turn.heads((k, v))))
        settings = plan.settings(seed, q.shape[0], q.shape[2], turn.first)
        out, lse = forward(plan.travel(), (mine, segments), (*theirs, segments), settings)
        done.append((out.astype(q.dtype), lse))
    out, lse = _join(done)
    out, lse = checkpoint_name(out, "attention_out"), checkpoint_name(lse, "attention_lse")
    return (out, lse), (q, k, v, segments, seed, out, lse)


def _ring_backward(plan, residuals, gradients):
    (q, k, v, segments, seed, out, lse), (dout, dlse) = residuals, gradients
    delta = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), axis=-1) - dlse
    done = []
    for turn in _turns(plan, q, k):
        mine, theirs = _after(done, (turn.heads((q, dout, lse, delta)), turn.heads((k, v))))
        settings = plan.settings(seed, q.shape[0], q.shape[2], turn.first)
        grads = backward(plan.travel(), (*mine, segments), (*theirs, segments), settings)
        done.append(tuple(grad.astype(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True)))
    return *_join(done), None, None


_ring.defvjp(_ring_forward, _ring_backward)


class _Turn(NamedTuple):
    """A group of heads that goes round by itself: the `number`-th of `count`, query heads from `first`."""

    number: int
    count: int
    first: int

    def heads(self, tree):
        """The share of this group in the heads of every array."""
        if self.count == 1:
            return tree
        return jax.tree.map(lambda x: jnp.split(x, self.count, axis=2)[self.number], tree)


def _turns(plan, q, k):
    """The fewest groups of heads of which each needs no more than HELD_BYTES, or are ENOUGH_TURNS."""
    K, needed = k.shape[2], 2 * k.size * k.dtype.itemsize + 4 * q.size
    count = 1
    if plan.shards.hops:
        least = min(-(-needed // HELD_BYTES), ENOUGH_TURNS)
        count = next((c for c in range(least, K) if K % c == 0), K)
    return [_Turn(i, count, i * (q.shape[2] // count)) for i in range(count)]


def _after(done, arrays):
    """The arrays, once the last of what is to be done before is done."""
    return lax.optimization_barrier((arrays, done[-1]))[0] if done else arrays


def _join(turns):
    return [jnp.concatenate(x, axis=2) if len(x) > 1 else x[0] for x in zip(*turns, strict=True)]


def _check_shapes(q_BTNH, k_BTKH, v_BTKH, segments_BT, sinks_N):
    (B, T, N, H), K = q_BTNH.shape, k_BTKH.shape[2]
    for name, x in (("k_BTKH", k_BTKH), ("v_BTKH", v_BTKH)):
        if x.shape != (B, T, K, H):
            raise ValueError(f"{name}: shape {x.shape}; needs {(B, T, K, H)} to go with q_BTNH")
    if N % K:
        raise ValueError(f"q_BTNH: {N} heads are not a multiple of {K} key/value heads")
    if segments_BT is not None and segments_BT.shape != (B, T):
        raise ValueError(f"segments_BT: shape {segments_BT.shape}; needs {(B, T)}")
    if sinks_N is not None and sinks_N.shape != (N,):
        raise ValueError(f"sinks_N: shape {sinks_N.shape}; needs {(N,)}, one for each head")
