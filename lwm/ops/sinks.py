"""Attention sinks: one learned logit a head that takes part in the softmax and has no value.

Source: gpt-oss model card (arXiv 2508.10925), section 2.1; StreamingLLM (arXiv 2309.17453), appendix.
"""

import jax
import jax.numpy as jnp


def add_sinks(out_BTNH: jax.Array, lse_BTN: jax.Array, sinks_N: jax.Array) -> jax.Array:
    """Attention with exp(sink) added to the denominator, from finished attention without it.

    Put on once, after all keys have been seen: it is counted once whatever cuts the keys into parts. Rows
    that saw nothing stay exactly 0. Differentiable in all three arguments.

    Args:
      out_BTNH: attention, any float dtype.
      lse_BTN: float32 log-sum-exp of its scores; -inf where a row saw nothing.
      sinks_N: logits on the scale of the scores (after H**-0.5 and any soft cap).

    Returns:
      Same shape and dtype as out.
    """
    saw = lse_BTN > -jnp.inf
    share_BTN = jax.nn.sigmoid(jnp.where(saw, lse_BTN, 0.0) - sinks_N.astype(jnp.float32))
    return (out_BTNH * jnp.where(saw, share_BTN, 0.0)[..., None]).astype(out_BTNH.dtype)
