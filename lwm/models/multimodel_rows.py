"""Rows of several arrays as one, and back, without anything leaving its device.

Arrays that are cut over the same devices cannot be laid one behind the other: most rows would move. Instead
their rows are dealt out in as many groups as all numbers of rows divide into, a share of each array in every
group. The order is the same on every mesh that cuts the arrays, and so is all that is drawn at random.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lwm.parallel.sharding import BATCH, constrain


def join(arrays: Sequence[jax.Array]) -> jax.Array:
    """Arrays [B_i, …], alike but for the B_i, as one [Σ B_i, …]."""
    if len(arrays) == 1:
        return arrays[0]
    groups = math.gcd(*(len(array) for array in arrays))
    dealt = [array.reshape(groups, -1, *array.shape[1:]) for array in arrays]
    joined = jnp.concatenate(dealt, axis=1)
    return constrain(joined.reshape(-1, *arrays[0].shape[1:]), BATCH)


def part(joined: jax.Array, counts: Sequence[int]) -> list[jax.Array]:
    """Undoes `join` of arrays with so many rows."""
    if len(counts) == 1:
        return [joined]
    groups = math.gcd(*counts)
    dealt = joined.reshape(groups, -1, *joined.shape[1:])
    parts, at = [], 0
    for count in counts:
        own = dealt[:, at : at + count // groups]
        parts.append(constrain(own.reshape(count, *joined.shape[1:]), BATCH))
        at += count // groups
    return parts
