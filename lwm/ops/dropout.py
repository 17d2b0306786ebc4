"""Dropout of attention weights that is a pure function of global positions.

Whether the weight between a query and a key is dropped is a hash of (seed, row, head, query position, key
position), all of them global. So the result depends neither on how many devices share the work nor on the
order in which they see the keys, and the backward pass needs nothing but the seed.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

Number = int | jax.Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("seed", "row", "head"), meta_fields=("rate",)
)
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Which weights to drop.

    Attributes:
      rate: share of the weights that is dropped, 0 <= rate < 1; kept ones are divided by 1 - rate. Static.
      seed: uint32 scalar; a new one for every layer and step.
      row, head: global indices of the first row of the batch and the first query head of the arrays at hand.
    """

    rate: float
    seed: Number
    row: Number = 0
    head: Number = 0

    def kept(self, rows, heads, q_positions, k_positions) -> jax.Array:
        """float32 1 / (1 - rate) for kept weights and 0 for dropped ones, of the broadcast shape.

        Args:
          rows, heads: indices in the arrays at hand (`row` and `head` are added).
          q_positions, k_positions: global positions.
        """
        seed = _word(self.seed)
        per_row = _mix(_mix(seed ^ _word(0x9E3779B9)) + _word(self.row) + _word(rows))
        per_head = _mix(per_row + _word(self.head) + _word(heads))
        per_query = _mix(per_head + _word(q_positions))
        word = _mix(per_query + _word(k_positions) * _word(0x9E3779B1))
        threshold = np.uint32(min(round(self.rate * 2**32), 2**32 - 1))
        return jnp.where(word >= threshold, jnp.float32(1 / (1 - self.rate)), jnp.float32(0))


def check(dropout: Dropout | None) -> Dropout | None:
    """The dropout itself, or None if it drops nothing.

    Raises:
      ValueError: a rate outside [0, 1).
    """
    if dropout is not None and not 0 <= dropout.rate < 1:
        raise ValueError(f"dropout: rate {dropout.rate}; 0 <= rate < 1")
    return dropout if dropout is not None and dropout.rate > 0 else None


def _word(x) -> jax.Array:
    return jnp.uint32(x) if isinstance(x, int) else jnp.asarray(x).astype(jnp.uint32)


def _mix(x):
    """A bijection of 32-bit words in which every input bit flips about half of the output bits (murmur3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
