"""How queries and keys are cut into blocks, and which blocks and which positions in them may meet."""

import jax
import jax.numpy as jnp
from jax import lax


class Tiles:
    """The grid of (block of queries, block of keys) that blockwise attention walks over.

    A block of queries is [B, K, G * size, H], a block of keys [B, K, size, H]: the query heads that share
    keys stand one after another, so that every product is a plain batched matrix product over (B, K).
    """

    def __init__(self, q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, *, causal: bool, block: int):
        (B, T, N, _), (S, K) = q_BTNH.shape, k_BSKH.shape[1:3]
        if N % K:
            raise ValueError(f"q_BTNH: {N} heads are not a multiple of {K} key/value heads")
        if causal and T != S:
            raise ValueError(f"causal: needs as many queries as keys, got T={T} and S={S}")
        if (q_segments_BT is None) != (k_segments_BS is None):
            raise ValueError("segments: give those of queries and of keys, or neither")
        self.T, self.S, self.K, self.G = T, S, K, N // K
        self.q_count, self.q_size = _cut(T, block)
        self.k_count, self.k_size = _cut(S, block)
        if q_segments_BT is None and not causal and self.k_count * self.k_size > S:
            # The filler of the last block must not be seen; only causality hides it by itself.
            q_segments_BT, k_segments_BS = jnp.ones((B, T), jnp.int32), jnp.ones((B, S), jnp.int32)
        self.masked = q_segments_BT is not None
        if self.masked:
            # Padding is -1 among queries and 0 among keys, so that equality alone decides who meets.
            q_ids = jnp.where(q_segments_BT > 0, q_segments_BT, -1)[..., None, None]
            q_ids = _split(q_ids, self.q_count, self.q_size, 1, -1)[:, :, 0, :, 0]
            k_ids = _split(k_segments_BS[..., None, None], self.k_count, self.k_size, 1, 0)[:, :, 0, :, 0]
            self._live = _overlap(q_ids, k_ids)
            self._q_ids, self._k_ids = jnp.tile(q_ids, self.G), k_ids

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

    def if_live(self, i, j, visit, otherwise):
        """`visit()` if blocks i and j can have a segment in common, else `otherwise`."""
        return lax.cond(self._live[i, j], visit, lambda: otherwise) if self.masked else visit()

    def mask(self, scores: jax.Array, i, j, diagonal: bool, keys_first: bool = False) -> jax.Array:
        """Sets scores that must not be seen to -inf: [B, K, G * q_size, k_size], or its transpose."""
        q_axis, k_axis = (-2, -1) if keys_first else (-1, -2)
        if diagonal:
            rows = jnp.tile(jnp.arange(self.q_size), self.G)
            after = jnp.expand_dims(rows, q_axis) < jnp.expand_dims(jnp.arange(self.k_size), k_axis)
            scores = jnp.where(after, -jnp.inf, scores)
        if self.masked:
            q_ids, k_ids = self._q_ids[i][:, None], self._k_ids[j][:, None]
            same = jnp.expand_dims(q_ids, q_axis) == jnp.expand_dims(k_ids, k_axis)
            scores = jnp.where(same, scores, -jnp.inf)
        return scores


def _cut(length: int, block: int) -> tuple[int, int]:
    """Number and size of the fewest blocks, equal and at most `block` long, that cover a length."""
    count = -(-length // block)
    return count, -(-length // count)


def _split(x_BTNH, count, size, K, fill):
    B, T, N, H = x_BTNH.shape
    x_BTNH = jnp.pad(x_BTNH, ((0, 0), (0, count * size - T), (0, 0), (0, 0)), constant_values=fill)
    blocks = x_BTNH.reshape(B, count, size, K, N // K, H).transpose(1, 0, 3, 4, 2, 5)
    return blocks.reshape(count, B, K, N // K * size, H)


def _join(blocks, size):
    count, B, K, rows, H = blocks.shape
    x = blocks.reshape(count, B, K, rows // size, size, H).transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(B, count * size, K * (rows // size), H)


def _overlap(q_ids, k_ids):
    """bool[q_count, k_count]: False where the ranges of segments of two blocks touch in no row of B."""

    def span(ids):
        return jnp.min(jnp.where(ids > 0, ids, jnp.iinfo(ids.dtype).max), axis=-1), jnp.max(ids, axis=-1)

    (q_low, q_high), (k_low, k_high) = span(q_ids), span(k_ids)
    touch = (q_low[:, None] <= k_high[None, :]) & (k_low[None, :] <= q_high[:, None])
    return jnp.any(touch, axis=-1)
