"""What pictures are made from: a sequence of vectors with padding, and the sequence that stands for none.

In training the condition of a share of the examples is replaced by the latter, so that one network learns
both predictions that classifier-free guidance (2207.12598) goes between.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Condition(NamedTuple):
    """A batch of conditions.

    Attributes:
        vectors_BSC: float.
        there_BS: bool, False = padding, which nobody sees.
    """

    vectors_BSC: Array
    there_BS: Array

    def mean(self) -> Array:
        """float32 [B, C], of the vectors that are no padding; 0 if all are."""
        there_BS1 = self.there_BS[..., None]
        sum_BC = jnp.sum(jnp.where(there_BS1, self.vectors_BSC.astype(jnp.float32), 0), axis=1)
        return sum_BC / jnp.maximum(jnp.sum(there_BS1, axis=1), 1)


def without_condition(given: Array | Condition | None, B: int) -> Condition:
    """The sequence that stands for no condition, of vectors [S, C] or [B, S, C], for B examples.

    Raises:
        ValueError: there is none.
    """
    if given is None:
        raise ValueError("unconditional: None, and none is learned (unconditional_length = 0); give one")
    if isinstance(given, Condition):
        return given
    vectors_BSC = jnp.broadcast_to(given, (B, *given.shape[-2:]))
    return Condition(vectors_BSC, jnp.ones(vectors_BSC.shape[:2], bool))


def alike(a: Condition, b: Condition) -> tuple[Condition, Condition]:
    """Both as long as the longer one, by padding, and in the type of the first."""
    S = max(a.there_BS.shape[1], b.there_BS.shape[1])

    def filled(x):
        return jnp.pad(x, ((0, 0), (0, S - x.shape[1]), *[(0, 0)] * (x.ndim - 2)))

    b = b._replace(vectors_BSC=b.vectors_BSC.astype(a.vectors_BSC.dtype))
    return jax.tree.map(filled, a), jax.tree.map(filled, b)


def drop(key: Array, rate: float, condition: Condition, without: Condition) -> Condition:
    """The condition, in a random share of the examples replaced."""
    condition, without = alike(condition, without)
    dropped_B = jax.random.bernoulli(key, rate, condition.there_BS.shape[:1])
    there_BS = jnp.where(dropped_B[:, None], without.there_BS, condition.there_BS)
    vectors_BSC = jnp.where(dropped_B[:, None, None], without.vectors_BSC, condition.vectors_BSC)
    return Condition(vectors_BSC, there_BS)
