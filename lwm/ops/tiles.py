"""How queries and keys are cut into blocks, and which blocks and which positions in them may meet.

A pair of blocks, a tile, is of one of three kinds: dead (nothing in it is visible; it is not executed), whole
(everything is; it runs without a mask) or partial (it runs with one). The kind follows from the positions and
from the range of segment ids in each block; no table of tiles is ever made.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lwm.ops.dropout import Dropout
from lwm.ops.masks import Mask
from lwm.ops.stripes import GAPLESS, Stripes


class Ids(NamedTuple):
    """Segment ids of blocks: the ids themselves, and their range without padding in each row of the batch."""

    ids: jax.Array  # int32[count, B, size]
    low: jax.Array  # int32[count, B]; above `high` where a block holds padding only
    high: jax.Array
    unpadded: jax.Array  # bool[count, B]


class Tiles:
    """The grid of (block of queries, block of keys) that blockwise attention walks over.

    A block of queries is [B, K, G * size, H], a block of keys [B, K, size, H]: the query heads that share
    keys stand one after another, so that every product is a plain batched matrix product over (B, K).
    """

    def __init__(
        self,
        q_BTNH,
        k_BSKH,
        q_segments_BT,
        k_segments_BS,
        *,
        mask: Mask,
        block: int,
        q_start=0,
        k_start=0,
        stripes: Stripes = GAPLESS,
    ):
        (B, T, N, _), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
        check_arguments(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, block)
        self.mask, self.q_start, self.k_start, self.stripes = mask, q_start, k_start, stripes
        self.B, self.T, self.S, self.K, self.G = B, T, S, K, N // K
        self.q_count, self.q_size = stripes.cut(T, block)
        self.k_count, self.k_size = stripes.cut(S, block)
        self.segmented = q_segments_BT is not None
        if self.segmented:
            self._q_ids = block_ids(q_segments_BT, self.q_count, self.q_size)
            self._k_ids = block_ids(k_segments_BS, self.k_count, self.k_size)
        # Plain causal attention to the own keys: the diagonal tile and those before it, known without asking.
        both_static = isinstance(q_start, int) and isinstance(k_start, int)
        same_start = q_start is k_start or (both_static and q_start == k_start)
        self._aligned = mask.plain and same_start and T == S

    def split_q(self, x_BTNH: jax.Array, fill: float = 0.0) -> jax.Array:
        """[B, T, N, H] to [q_count, B, K, G * q_size, H]; `fill` completes the last block."""
        return _split(x_BTNH, self.q_count, self.q_size, self.K, fill)

    def split_k(self, x_BSKH: jax.Array) -> jax.Array:
        """[B, S, K, H] to [k_count, B, K, k_size, H]."""
        return _split(x_BSKH, self.k_count, self.k_size, self.K, 0.0)

    def join_q(self, blocks: jax.Array) -> jax.Array:
        """Undoes `split_q`."""
        return _join(blocks, self.q_size)[:, : self.T]

    def join_k(self, blocks: jax.Array) -> jax.Array:
        """Undoes `split_k`."""
        return _join(blocks, self.k_size)[:, : self.S]

    def over_keys(self, i, visit, carry):
        """`carry` after the live tiles of block i of queries; `visit(i, j, masked, carry)` does one.

        `masked` is a Python bool: whether hidden positions may exist in the tile.
        """
        if self._aligned:
            carry = self._meet(i, i, True, visit, carry)
            return lax.fori_loop(0, i, lambda j, carry: self._meet(i, j, False, visit, carry), carry)
        if self.mask.everything:
            return self._sweep_keys(i, visit, carry)
        first, last = self.mask.keys_of(*self._q_range(i))
        bounds = self._blocks(first, last, self.k_start, self.k_size, self.k_count)
        return lax.fori_loop(*bounds, lambda j, carry: self._meet(i, j, None, visit, carry), carry)

    def over_queries(self, j, visit, carry):
        """`carry` after the live tiles of block j of keys; as `over_keys`.

        carry: first an array of all blocks of queries, then anything. A visit is given, and gives back, block
        i of it: branches that were handed the whole would copy it at every tile.
        """

        def meet(i, masked, carry):
            blocks, *rest = carry
            block, *rest = self._meet(i, j, masked, visit, (blocks[i], *rest))
            return blocks.at[i].set(block), *rest

        if self._aligned:
            carry = meet(j, True, carry)
            return lax.fori_loop(j + 1, self.q_count, lambda i, carry: meet(i, False, carry), carry)
        if self.mask.everything:
            masked = None if self._filled else False
            return lax.fori_loop(0, self.q_count, lambda i, carry: meet(i, masked, carry), carry)
        first, last = self.mask.queries_of(*self._k_range(j))
        bounds = self._blocks(first, last, self.q_start, self.q_size, self.q_count)
        return lax.fori_loop(*bounds, lambda i, carry: meet(i, None, carry), carry)

    def hide(self, scores: jax.Array, i, j, keys_first: bool = False) -> jax.Array:
        """Sets scores that must not be seen to -inf: [B, K, G * q_size, k_size], or its transpose."""
        q_axis, k_axis = (-2, -1) if keys_first else (-1, -2)

        def seen(relation, q, k):
            return relation(jnp.expand_dims(jnp.tile(q, self.G), q_axis), jnp.expand_dims(k, k_axis))

        if self._aligned:
            if i is j:  # the diagonal, met by itself; all other tiles lie wholly before it
                size = jnp.arange(self.q_size)
                scores = jnp.where(seen(self.mask.sees, size, size), scores, -jnp.inf)
        else:
            if not self.mask.everything:
                visible = seen(self.mask.sees, *self.positions(i, j))
                scores = jnp.where(visible, scores, -jnp.inf)
            if self._filled:
                real = j * self.k_size + jnp.arange(self.k_size) < self.S
                scores = jnp.where(jnp.expand_dims(real, k_axis), scores, -jnp.inf)
        if self.segmented:
            related = seen(self.mask.sees_ids, self._q_ids.ids[i], self._k_ids.ids[j])
            scores = jnp.where(related[:, None], scores, -jnp.inf)
        return scores

    def kept(self, dropout: Dropout, i, j, keys_first: bool = False) -> jax.Array:
        """What dropout multiplies weights with: [B, K, G * q_size, k_size], or its transpose."""
        q_positions, k_positions = self.positions(i, j)
        rows = np.arange(self.B)[:, None, None, None]
        heads = np.repeat(np.arange(self.K * self.G).reshape(self.K, self.G), self.q_size, axis=1)
        q_axis, k_axis = (-2, -1) if keys_first else (-1, -2)
        return dropout.kept(
            rows,
            jnp.expand_dims(heads, q_axis),
            jnp.expand_dims(jnp.tile(q_positions, self.G), q_axis),
            jnp.expand_dims(k_positions, k_axis),
        )

    def positions(self, i, j) -> tuple[jax.Array, jax.Array]:
        """Global positions of the queries and of the keys of a tile."""
        q_index, k_index = (n * size + jnp.arange(size) for n, size in ((i, self.q_size), (j, self.k_size)))
        return self.stripes.position(self.q_start, q_index), self.stripes.position(self.k_start, k_index)

    @property
    def _filled(self) -> bool:
        """Whether the last block of keys holds filler."""
        return self.k_count * self.k_size > self.S

    def _sweep_keys(self, i, visit, carry):
        whole = self.k_count - self._filled
        carry = lax.fori_loop(0, whole, lambda j, carry: self._meet(i, j, False, visit, carry), carry)
        return self._meet(i, whole, True, visit, carry) if self._filled else carry

    def _meet(self, i, j, masked: bool | None, visit, carry):
        """Visits a tile that is partial (True), whole (False) or either (None) by its positions."""

        def run(masked):
            return lambda carry: visit(i, j, masked, carry)

        if not self.segmented:
            if masked is None:
                return lax.cond(self._positions_whole(i, j), run(False), run(True), carry)
            return run(masked)(carry)
        q, k = (Ids(*(x[index] for x in ids)) for ids, index in ((self._q_ids, i), (self._k_ids, j)))
        ranges = q.low, q.high, k.low, k.high
        dead = jnp.all(self.mask.ids_dead(*ranges))
        if masked:
            return lax.cond(dead, lambda carry: carry, run(True), carry)
        whole = jnp.all(self.mask.ids_whole(*ranges) & q.unpadded & k.unpadded)
        if masked is None:
            whole &= self._positions_whole(i, j)
        kind = jnp.where(dead, 0, jnp.where(whole, 1, 2))
        return lax.switch(kind, (lambda carry: carry, run(False), run(True)), carry)

    def _positions_whole(self, i, j):
        (q_first, q_last), (k_first, k_last) = self._q_range(i), self._k_range(j)
        whole = True if self.mask.everything else self.mask.whole(q_first, q_last, k_first, k_last)
        return whole & ((j + 1) * self.k_size <= self.S) if self._filled else whole

    def _q_range(self, i):
        return self._range(i, self.q_start, self.q_size, self.T)

    def _k_range(self, j):
        return self._range(j, self.k_start, self.k_size, self.S)

    def _range(self, block, start, size, count):
        """First and last position of a block."""
        last = jnp.minimum((block + 1) * size, count) - 1
        return self.stripes.position(start, block * size), self.stripes.position(start, last)

    def _blocks(self, first, last, start, size, count):
        """From which to before which block positions first … last lie; None = no such bound."""
        begin, end = 0, count
        if first is not None:
            begin = jnp.clip(self.stripes.reached(start, first) // size, 0, count)
        if last is not None:
            end = jnp.clip((self.stripes.reached(start, last + 1) + size - 1) // size, 0, count)
        return begin, end


def check_arguments(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, block: int) -> None:
    """Raises ValueError for shapes that do not go together."""
    (B, T, N, H), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
    if N % K:
        raise ValueError(f"q_BTNH: {N} heads are not a multiple of {K} key/value heads")
    if k_BSKH.shape != (B, S, K, H):
        raise ValueError(f"k_BSKH: {k_BSKH.shape}; needs batch {B} and head size {H} of q_BTNH")
    if block < 1:
        raise ValueError(f"block: {block}; positions in a block, at least 1")
    if (q_segments_BT is None) != (k_segments_BS is None):
        raise ValueError("segments: give those of queries and of keys, or neither")
    if q_segments_BT is not None:
        for name, segments, length in (("q_segments", q_segments_BT, T), ("k_segments", k_segments_BS, S)):
            if segments.shape != (B, length):
                raise ValueError(f"{name}: shape {segments.shape}; needs {(B, length)}, as its positions")


def block_ids(segments_BT, count: int, size: int) -> Ids:
    """The segment ids of each block, the last one filled up with padding."""
    B, T = segments_BT.shape
    ids = jnp.pad(segments_BT, ((0, 0), (0, count * size - T))).reshape(B, count, size).swapaxes(0, 1)
    low = jnp.min(jnp.where(ids > 0, ids, np.iinfo(ids.dtype).max), axis=-1)
    return Ids(ids, low, jnp.max(ids, axis=-1), jnp.all(ids > 0, axis=-1))


def _split(x_BTNH, count, size, K, fill):
    B, T, N, H = x_BTNH.shape
    x_BTNH = jnp.pad(x_BTNH, ((0, 0), (0, count * size - T), (0, 0), (0, 0)), constant_values=fill)
    blocks = x_BTNH.reshape(B, count, size, K, N // K, H).transpose(1, 0, 3, 4, 2, 5)
    return blocks.reshape(count, B, K, N // K * size, H)


def _join(blocks, size):
    count, B, K, rows, H = blocks.shape
    x = blocks.reshape(count, B, K, rows // size, size, H).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(B, count * size, K * (rows // size), H)
