"""RMSNorm (Zhang & Sennrich, arXiv 1910.07467), equation 4, with a gradient that keeps only its input."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x_BTD: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x²) + eps) · scale along the last axis.

    Args:
      x_BTD: any float dtype.
      scale_D: float32.
      eps: added to the mean square.

    Returns:
      Same shape and dtype as x; computed in float32, and so are the gradients before they take the dtype of
      their argument. For the gradient x, scale and one number a position are kept.
    """
    return _forward(x_BTD, scale_D, eps)[0]


def _forward(x_BTD, scale_D, eps):
    x32_BTD = x_BTD.astype(jnp.float32)
    rate_BT1 = jax.lax.rsqrt(jnp.mean(jnp.square(x32_BTD), axis=-1, keepdims=True) + eps)
    return (x32_BTD * rate_BT1 * scale_D).astype(x_BTD.dtype), (x_BTD, scale_D, rate_BT1)


def _backward(eps, residuals, dy_BTD):
    x_BTD, scale_D, rate_BT1 = residuals
    n_BTD = x_BTD.astype(jnp.float32) * rate_BT1
    dy_BTD = dy_BTD.astype(jnp.float32)
    # Both sums as matrix products: 0.3 instead of 3.2 ms on two cores (T = 2048, D = 128), where XLA is slow
    # at reducing what it has just computed.
    product_BTD, ones_BT = dy_BTD * n_BTD, jnp.ones(x_BTD.shape[:-1], jnp.float32)
    along_BT = _sum("BTD,D->BT", product_BTD, scale_D) / x_BTD.shape[-1]
    dx_BTD = rate_BT1 * (dy_BTD * scale_D - n_BTD * along_BT[..., None])
    return dx_BTD.astype(x_BTD.dtype), _sum("BT,BTD->D", ones_BT, product_BTD)


def _sum(formula, a, b):
    return jnp.einsum(formula, a, b, precision=jax.lax.Precision.HIGHEST)


rms_norm.defvjp(_forward, _backward)
