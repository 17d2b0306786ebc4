"""Ulysses (arXiv 2309.14509): heads for positions and back, between `group` neighbours on the "seq" axis.

The n devices of the axis are n / group rings' worth of groups: devices g * group … g * group + group - 1
exchange all-to-all, after which each holds all positions of its group for a share of the heads, and rings run
between devices of the same number in different groups (USP, arXiv 2405.07719). The order of the sequence over
the n devices does not depend on the group: what a group holds in the zigzag order of n devices is what one
device holds in the zigzag order of n / group, once its chunks are put in order.
"""

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


def gather_positions(x: jax.Array, group: int, layout: str) -> jax.Array:
    """[B, t, heads, …] of every device to [B, group * t, heads / group, …], in the order of the layout.

    Without a heads axis (segments, [B, t]) the positions of the group are gathered whole.
    """
    if group == 1:
        return x
    if x.ndim == 2:
        gathered = lax.all_gather(x, SEQUENCE[0], axis=1, tiled=True, axis_index_groups=_groups(group))
    else:
        gathered = lax.all_to_all(
            x, SEQUENCE[0], split_axis=2, concat_axis=1, tiled=True, axis_index_groups=_groups(group)
        )
    return _in_order(gathered, group) if layout == "zigzag" else gathered


def scatter_positions(x: jax.Array, group: int, layout: str) -> jax.Array:
    """Undoes `gather_positions` of an array with heads."""
    if group == 1:
        return x
    x = _by_device(x, group) if layout == "zigzag" else x
    return lax.all_to_all(
        x, SEQUENCE[0], split_axis=1, concat_axis=2, tiled=True, axis_index_groups=_groups(group)
    )


def _groups(group: int) -> list[list[int]]:
    n = pieces(SEQUENCE)
    return [list(range(first, first + group)) for first in range(0, n, group)]


def _in_order(x, group):
    """Chunks (low, high) of each device in turn, highs descending, to all lows, then all highs, ascending."""
    B, T, *rest = x.shape
    chunks = x.reshape(B, group, 2, T // (2 * group), *rest)
    return jnp.concatenate([chunks[:, :, 0], chunks[:, ::-1, 1]], axis=1).reshape(x.shape)


def _by_device(x, group):
    B, T, *rest = x.shape
    low, high = jnp.split(x.reshape(B, 2 * group, T // (2 * group), *rest), 2, axis=1)
    return jnp.stack([low, high[:, ::-1]], axis=2).reshape(x.shape)
