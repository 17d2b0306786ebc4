"""Numbers on the wire: 16-bit floats as they are, and 16 bits a number that come far closer than those."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_TOP = 32767.0  # the largest int16


def to_int16(x_BTNH: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fixed-point numbers and what a row of them is to be multiplied by.

    bfloat16 spends eight of its 16 bits on an exponent that the numbers of one row (one head of one position)
    can share. Without it a number is off by at most 2^-16 of the largest in its row, which is what makes it
    possible to send a running sum many times without seeing it in the result.

    Args:
      x_BTNH: finite, any float dtype; rows are along the last axis.

    Returns:
      (codes_BTNH int16, scale_BTN float32); x is close to codes * scale. A row of zeros stays exactly zero.
    """
    x_BTNH = x_BTNH.astype(jnp.float32)
    scale_BTN = jnp.max(jnp.abs(x_BTNH), axis=-1) / _TOP
    some_BTN = jnp.where(scale_BTN > 0, scale_BTN, 1.0)
    return jnp.round(x_BTNH / some_BTN[..., None]).astype(jnp.int16), scale_BTN


def from_int16(codes_BTNH: jax.Array, scale_BTN: jax.Array) -> jax.Array:
    """Undoes `to_int16`, up to its rounding: float32."""
    return codes_BTNH.astype(jnp.float32) * scale_BTN[..., None]


def in_sixteen_bits(collective: Callable[[Any], Any], tree: Any) -> Any:
    """`collective(tree)` with 16-bit floats moved as plain bits.

    XLA may carry them as float32 otherwise, twice as many bytes: it does on CPU.
    """
    sixteen = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize == 2, tree)
    bits = jax.tree.map(lambda x, it: jax.lax.bitcast_convert_type(x, jnp.uint16) if it else x, tree, sixteen)
    return jax.tree.map(
        lambda bits, x, it: jax.lax.bitcast_convert_type(bits, x.dtype) if it else bits,
        collective(bits),
        tree,
        sixteen,
    )
