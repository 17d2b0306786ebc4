"""Convolution along a sequence, each channel by itself: a sum of shifted copies.

A few multiply-adds for each element are bound by memory: shifts that fuse into one pass are all it takes.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(window_BSD: jax.Array, taps_KD: jax.Array, dilation: int) -> jax.Array:
    """out[b, t, d] = Σ_i taps[i, d] · window[b, t + i · dilation, d].

    Args:
      window_BSD: the sequence with what stands before and behind it.
      taps_KD: float32, K taps; the last one meets the latest position.
      dilation: positions from tap to tap.

    Returns:
      out_BTD in the dtype of the window, T = S - (K - 1) · dilation; summed in float32.
    """
    T = window_BSD.shape[1] - (len(taps_KD) - 1) * dilation
    out_BTD = sum(
        tap_D * window_BSD[:, i * dilation : i * dilation + T].astype(jnp.float32)
        for i, tap_D in enumerate(taps_KD)
    )
    return out_BTD.astype(window_BSD.dtype)


def _forward(window_BSD, taps_KD, dilation):
    return depthwise(window_BSD, taps_KD, dilation), (window_BSD, taps_KD)


def _backward(dilation, residuals, dy_BTD):
    window_BSD, taps_KD = residuals
    reach, T = (len(taps_KD) - 1) * dilation, dy_BTD.shape[1]
    dwindow_BSD = depthwise(jnp.pad(dy_BTD, ((0, 0), (reach, reach), (0, 0))), taps_KD[::-1], dilation)
    dy_BTD, ones_BT = dy_BTD.astype(jnp.float32), jnp.ones(dy_BTD.shape[:2], jnp.float32)
    # As products, because XLA on CPU is slow at reducing what it has just computed (see ops/rms_norm.py).
    dtaps_KD = jnp.stack(
        [
            jnp.einsum(
                "BT,BTD->D",
                ones_BT,
                dy_BTD * window_BSD[:, i * dilation : i * dilation + T],
                precision=jax.lax.Precision.HIGHEST,
            )
            for i in range(len(taps_KD))
        ]
    )
    return dwindow_BSD, dtaps_KD


depthwise.defvjp(_forward, _backward)
