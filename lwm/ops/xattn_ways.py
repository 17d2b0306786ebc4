"""Three ways to bring the queries and the keys of one cross-attention together, as each device does them.

    "rotate_queries"   keys and values stay; queries, outputs and log-sum-exps go round the ring
    "rotate_keys"      queries stay; keys and values, and on the way back their gradients, go round the ring
    "gather_queries"   keys and values stay; every device takes all queries at once, and what it found for
                       them goes straight back to their owners

All are exact; they differ in what is sent (`xattn_traffic.py`) and held. T and S are both cut over "seq".
The backward takes delta, the row sums of dout * out, in place of out: one number a row instead of H.
Gradients and results are float32, dK and dV are summed in float32 where their keys are.

What is sent for a query row and head: H numbers of q, H of out and one lse; backward H of q, of dout and of
dq, one lse and one delta. out is sent as float32 if q has 32 bits. If q has 16, so has out (`wire.py`), and
its scale goes along: after n - 1 hops an output is off by at most (n - 1) 2^-16 of the largest number in its
row, far below the 2^-9 of its own rounding to bfloat16 at the end. Statistics travel as [B, N, T], so that
the long dimension lies in the lanes of a TPU and nothing is padded.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.attention import Part, attend_block, attend_block_grad, merge
from lwm.ops.axes import SEQUENCE
from lwm.ops.masks import Mask
from lwm.ops.round_trip import round_trip, send
from lwm.ops.wire import from_int16, in_sixteen_bits, to_int16

WAYS = ("rotate_queries", "rotate_keys", "gather_queries")


@dataclasses.dataclass(frozen=True)
class How:
    """What is known before tracing.

    Attributes:
      n: devices on "seq".
      mask, block, softcap: as for `attend_block`.
      chunks: into how many equal chunks the keys of a device are cut where something is made of all of them
        that should not exist at once. Travelling queries: dK and dV of one visit.
      send: (tree, n) -> what arrives from the device before on the ring; another form of `round_trip.send`
        where a network wants its messages otherwise.
    """

    n: int
    mask: Mask
    block: int
    softcap: float = 0.0
    chunks: int = 1
    send: Callable[[Any, int], Any] = send

    def options(self) -> dict:
        """What attend_block and attend_block_grad have in common."""
        return {"mask": self.mask, "block": self.block, "softcap": self.softcap}


def forward(way: str, how: How, q, k, v, q_ids, k_ids) -> Part:
    """(out_BTNH, lse_BTN), float32, of this device's queries and the keys of all devices."""
    if way == "rotate_queries":
        return _rotate_queries(how, q, k, v, q_ids, k_ids)
    if way == "rotate_keys":
        return _rotate_keys(how, q, k, v, q_ids, k_ids)
    queries, ids = gather((q, q_ids), how.n)
    return give_back(attend_block(queries, k, v, ids, k_ids, **how.options()), q.dtype, how.n)


def backward(way: str, how: How, q, k, v, q_ids, k_ids, dout, lse, delta):
    """(dq_BTNH, dk_BSKH, dv_BSKH), float32, of this device's queries and keys."""
    if way == "rotate_queries":
        return _rotate_queries_back(how, q, k, v, q_ids, k_ids, dout, lse, delta)
    if way == "rotate_keys":
        return _rotate_keys_back(how, q, k, v, q_ids, k_ids, dout, lse, delta)
    q, q_ids, dout, lse, delta = gather((q, q_ids, dout, lse, delta), how.n)
    dq, dk, dv = attend_block_grad(q, k, v, q_ids, k_ids, dout, lse, delta, **how.options())
    return add_back(dq, how.n), dk, dv


def _rotate_queries(how, q, k, v, q_ids, k_ids):
    lain = _laid_by_heads((k, v))

    def visit(home, visitor):
        (queries, ids), (k, v) = visitor, _laid_by_positions(lain)
        return home, attend_block(queries, k, v, ids, k_ids, **how.options())

    def send_part(part):
        return _unpack(how.send(_pack(part, q.dtype), how.n))

    plain = functools.partial(how.send, n=how.n)
    return round_trip((q, q_ids), None, visit, merge, n=how.n, send_visitor=plain, send_result=send_part)[1]


def _rotate_queries_back(how, q, k, v, q_ids, k_ids, dout, lse, delta):
    lain = _laid_by_heads((k, v))

    def visit(home, visitor):
        q, q_ids, dout, lse, delta = visitor

        def meet(chunk, grads):
            k, v, ids = cut((*_laid_by_positions(lain), k_ids), chunk, how.chunks)
            dq, *more = attend_block_grad(q, k, v, q_ids, ids, dout, lse, delta, **how.options())
            return grads[0] + dq, paste(grads[1], _add(cut(grads[1], chunk, how.chunks), more), chunk)

        dq, home = lax.fori_loop(0, how.chunks, meet, (jnp.zeros(q.shape, jnp.float32), home))
        return home, dq

    def send_visitor(visitor):
        *rows, lse, delta = visitor
        *rows, statistics = how.send((*rows, jnp.stack([lse, delta]).swapaxes(-1, -2)), how.n)
        return *rows, *statistics.swapaxes(-1, -2)

    visitor, home = (q, q_ids, dout, lse, delta), [jnp.zeros(x.shape, jnp.float32) for x in (k, v)]
    plain = functools.partial(how.send, n=how.n)
    (dk, dv), dq = round_trip(
        visitor, home, visit, jnp.add, n=how.n, send_visitor=send_visitor, send_result=plain
    )
    return dq, dk, dv


def _rotate_keys(how, q, k, v, q_ids, k_ids):
    def visit(home, visitor):
        keys, values, ids = visitor
        return attend_block(q, keys, values, q_ids, ids, part=home, **how.options()), None

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], -jnp.inf)
    plain = functools.partial(how.send, n=how.n)
    return round_trip(
        (k, v, k_ids), nothing, visit, lambda a, b: None, n=how.n, send_visitor=plain, send_result=plain
    )[0]


def _rotate_keys_back(how, q, k, v, q_ids, k_ids, dout, lse, delta):
    def visit(home, visitor):
        keys, values, ids = visitor
        dq, *grads = attend_block_grad(q, keys, values, q_ids, ids, dout, lse, delta, **how.options())
        return home + dq, grads

    plain = functools.partial(how.send, n=how.n)
    dq, (dk, dv) = round_trip(
        (k, v, k_ids),
        jnp.zeros(q.shape, jnp.float32),
        visit,
        _add,
        n=how.n,
        send_visitor=plain,
        send_result=plain,
    )
    return dq, dk, dv


def gather(tree, n: int):
    """The shards of all devices, one after another along T (axis 1)."""
    if n == 1:
        return tree
    return in_sixteen_bits(lambda bits: lax.all_gather(bits, SEQUENCE, axis=1, tiled=True), tree)


def give_back(part: Part, dtype, n: int) -> Part:
    """Of what each device found for all queries, each device gets what was found for its own, merged."""
    if n == 1:
        return part
    pieces = tuple(jnp.stack(jnp.split(x, n, axis=1)) for x in part)
    packed, statistics = _pack(pieces, dtype)
    packed = lax.all_to_all(packed, SEQUENCE, split_axis=0, concat_axis=0, tiled=True)
    statistics = lax.all_to_all(statistics, SEQUENCE, split_axis=1, concat_axis=1, tiled=True)
    out, lse = _unpack((packed, statistics))
    top = jnp.max(lse, axis=0)
    weights = jnp.exp(lse - jnp.where(top > -jnp.inf, top, 0.0))
    total = jnp.sum(weights, axis=0)
    some = jnp.where(total > 0, total, 1.0)
    out = jnp.sum(out * (weights / some)[..., None], axis=0)
    return out, jnp.where(total > 0, top + jnp.log(some), -jnp.inf)


def add_back(grad_BTNH: jax.Array, n: int) -> jax.Array:
    """Of the gradients that each device has for all queries, each device gets the sum for its own."""
    if n == 1:
        return grad_BTNH
    return lax.psum_scatter(grad_BTNH, SEQUENCE, scatter_dimension=1, tiled=True)


def cut(tree, chunk, chunks: int):
    """Of every array, chunk number `chunk` of so many along S (axis 1)."""
    if chunks == 1:
        return tree

    def one(x):
        size = x.shape[1] // chunks
        return lax.dynamic_slice_in_dim(x, chunk * size, size, axis=1)

    return jax.tree.map(one, tree)


def paste(tree, new, chunk):
    """The tree with chunk number `chunk` along S (axis 1) replaced."""
    return jax.tree.map(
        lambda x, y: lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), chunk * y.shape[1], axis=1),
        tree,
        new,
    )


def _pack(part: Part, dtype):
    """(out, lse) as they travel: out float32 or int16, and the statistics as [1 or 2, ..., N, T]."""
    out, *statistics = part
    if jnp.dtype(dtype).itemsize == 2:
        out, scale = to_int16(out)
        statistics.append(scale)
    return out, jnp.stack(statistics).swapaxes(-1, -2)


def _unpack(packed) -> Part:
    out, statistics = packed
    lse, *scale = statistics.swapaxes(-1, -2)
    return (from_int16(out, *scale) if scale else out), lse


def _laid_by_heads(tree):
    """[B, S, K, H] as [B, K, S, H], made once and not again for every visit."""
    return lax.optimization_barrier(jax.tree.map(lambda x: x.swapaxes(1, 2), tree))


def _laid_by_positions(tree):
    return jax.tree.map(lambda x: x.swapaxes(1, 2), tree)


def _add(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]
