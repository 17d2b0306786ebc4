"""Vectors into a sequence and out of it again: those of pictures to their places, those of queries back.

`place` looks rows of a table up, `collect` adds rows up in one: each is the transpose of the other. The
sequence is cut over "seq", in whatever order; the table is whole on every device of it, and short beside what
attention sends.
"""

import jax.numpy as jnp
from jax import Array, lax

from lwm.ops.axes import ROWS, SEQUENCE, active, per_device, spec


def place(table_BMD: Array, at_BT: Array) -> Array:
    """x_BTD with x[b, t] = table[b, at[b, t]].

    Args:
      table_BMD: any float dtype; B cut over ("data", "fsdp").
      at_BT: integers from 0 to M - 1; -1 = nothing, which is 0. T cut over "seq".

    Raises:
      ValueError: shapes that do not go together.
    """
    _check("table_BMD", table_BMD, at_BT)
    sequence, table = spec(ROWS, SEQUENCE), spec(ROWS)
    return per_device(_place, (table, sequence), sequence)(table_BMD, at_BT)


def collect(x_BTD: Array, at_BT: Array, count: int) -> Array:
    """table_BMD, M = `count`, with table[b, m] the sum of the x[b, t] whose at[b, t] is m; 0 if none is.

    Args:
      x_BTD: any float dtype; B cut over ("data", "fsdp"), T over "seq".
      at_BT: integers from 0 to count - 1; -1 = nowhere.

    Raises:
      ValueError: shapes that do not go together.
    """
    _check("x_BTD", x_BTD, at_BT)
    if x_BTD.shape[1] != at_BT.shape[1]:
        raise ValueError(f"at_BT: shape {at_BT.shape}; needs {x_BTD.shape[:2]}, that of x_BTD")

    def local(x_BTD, at_BT):
        B, _, D = x_BTD.shape
        table_BMD = jnp.zeros((B, count, D), x_BTD.dtype)
        at_BT = jnp.where(at_BT < 0, count, at_BT)  # out of bounds: dropped
        table_BMD = table_BMD.at[jnp.arange(B)[:, None], at_BT].add(x_BTD, mode="drop")
        return lax.psum(table_BMD, active(SEQUENCE))

    sequence, table = spec(ROWS, SEQUENCE), spec(ROWS)
    return per_device(local, (sequence, sequence), table)(x_BTD, at_BT)


def _place(table_BMD, at_BT):
    found_BTD = jnp.take_along_axis(table_BMD, jnp.maximum(at_BT, 0)[..., None], axis=1)
    return jnp.where(at_BT[..., None] < 0, 0, found_BTD)


def _check(name, x, at_BT):
    if x.ndim != 3 or at_BT.ndim != 2 or x.shape[0] != at_BT.shape[0]:
        raise ValueError(f"{name}: shape {x.shape} and at_BT: {at_BT.shape}; need [B, any, D] and [B, T]")
