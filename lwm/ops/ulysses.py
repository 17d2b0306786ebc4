"""Ulysses (arXiv 2309.14509): heads for positions and back, between neighbours on the "seq" axis.

The n devices of the axis are groups of `size` neighbours: devices g * size … g * size + size - 1 exchange
all-to-all, after which each holds all positions of its group for a share of the heads, and rings run between
devices of the same number in different groups (USP, arXiv 2405.07719). The order of the sequence over the n
devices does not depend on the groups: what a group holds in some layout over n devices is what one device
holds in that layout over n / size, once its stripes are put in order: those of one way forth or back lie side
by side in the sequence, and become one that is `size` times as long.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.axes import SEQUENCE, pieces


def kv_copies(kv_heads: int, group: int) -> int:
    """How often each key/value head is sent so that every device of a group gets equally many.

    1 if the group divides the heads; with more devices than heads, as few copies as make the shares equal.
    Query heads still find their keys in order, since copies of a head follow each other.
    """
    return math.lcm(kv_heads, group) // kv_heads


@dataclasses.dataclass(frozen=True)
class Group:
    """`size` neighbours, and the layout of the sequence with its stripe; size 1 does nothing."""

    size: int
    layout: str
    stripe: int = 0

    def gather(self, x: jax.Array) -> jax.Array:
        """[B, t, heads, …] of every device to [B, size * t, heads / size, …], in the order of the layout.

        Without a heads axis (segments, [B, t]) the positions of the group are gathered whole.
        """
        if self.size == 1:
            return x
        if x.ndim == 2:
            x = lax.all_gather(x, SEQUENCE[0], axis=1, tiled=True, axis_index_groups=self._groups())
        else:
            x = self._exchange(x, split_axis=2, concat_axis=1)
        B, T, *rest = x.shape
        if self.layout == "zigzag":
            # [device, low or high, turn, …], highs descending by device, to [turn, device, …] for each.
            stripes = x.reshape(B, self.size, 2, -1, self._stripe(T), *rest).swapaxes(1, 3)
            x = jnp.stack([stripes[:, :, 0], stripes[:, :, 1, ::-1]], axis=self._ways)
        return x.reshape(B, T, *rest)

    def scatter(self, x: jax.Array) -> jax.Array:
        """Undoes `gather` of an array with heads."""
        if self.size == 1:
            return x
        B, T, *rest = x.shape
        if self.layout == "zigzag":
            shape = (2, -1) if self._ways == 1 else (-1, 2)
            stripes = x.reshape(B, *shape, self.size, self._stripe(T), *rest)
            low, high = jnp.moveaxis(stripes, self._ways, 0)
            x = jnp.stack([low, high[:, :, ::-1]], axis=2).swapaxes(1, 3)
        return self._exchange(x.reshape(B, T, *rest), split_axis=1, concat_axis=2)

    @property
    def _ways(self) -> int:
        """Where low and high ones are told apart: before the turns, or after them where no ring remains."""
        return 2 if self.size == pieces(SEQUENCE) else 1

    def _stripe(self, T: int) -> int:
        return self.stripe or T // (2 * self.size)

    def _exchange(self, x, **axes):
        return lax.all_to_all(x, SEQUENCE[0], tiled=True, axis_index_groups=self._groups(), **axes)

    def _groups(self) -> list[list[int]]:
        return [list(range(first, first + self.size)) for first in range(0, pieces(SEQUENCE), self.size)]
