"""x w, the product that most of a transformer is made of, with its gradients in a good order."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def project(x_BTD: jax.Array, w_DF: jax.Array) -> jax.Array:
    """x_BTD w_DF: out_BTF in the dtype of the arguments, which must be the same.

    Left to itself JAX writes the gradient of w as (dyᵀ x)ᵀ. Where dy is the wider side, XLA on CPU then
    computes dy once more, transposed and with strides, and a gated feed-forward layer takes 23.7 ms instead
    of 8.2 (T = 2048, D = 128, F = 384, two cores). Here the narrower side is the one that is turned.
    """
    return x_BTD @ w_DF


def _forward(x_BTD, w_DF):
    return x_BTD @ w_DF, (x_BTD, w_DF)


def _backward(residuals, dy_BTF):
    x_BTD, w_DF = residuals
    if w_DF.shape[0] <= w_DF.shape[1]:
        dw_DF = jnp.einsum("BTD,BTF->DF", x_BTD, dy_BTF)
    else:
        dw_DF = jnp.einsum("BTF,BTD->FD", dy_BTF, x_BTD).T
    return dy_BTF @ w_DF.T, dw_DF


project.defvjp(_forward, _backward)
