"""What the parts of a DreamLLM learn of captioned pictures before a language model joins them.

Stable Diffusion and CLIP are trained by others; where there are none, these are the losses of our own: the
decoder draws from the captions of its text encoder, and the eyes learn which caption is whose.
"""

import jax
import jax.numpy as jnp
from jax import Array


def contrastive_loss(
    pictures_NE: Array, texts_NE: Array, scale: Array, captions_NS: Array
) -> tuple[Array, Array]:
    """Cross-entropy of the caption of each picture among all, and the other way round (2103.00020).

    A picture whose caption is that of another in the batch is not told apart from it: those are left out of
    its choice.

    Args:
        pictures_NE, texts_NE: float32 vectors of length 1. scale: of their products.
        captions_NS: int32; a first id of 0 = there is no picture.

    Returns:
        The mean over the pictures that there are of both, and the share of them whose own caption is the
        nearest.
    """
    N = len(captions_NS)
    there_N, own_NN = captions_NS[:, 0] > 0, jnp.eye(N, dtype=bool)
    twin_NN = jnp.all(captions_NS[:, None] == captions_NS[None], axis=-1) & ~own_NN
    logits_NN = scale * jnp.einsum("AE,BE->AB", pictures_NE, texts_NE)
    logits_NN = jnp.where(there_N[None] & there_N[:, None] & ~twin_NN | own_NN, logits_NN, -1e9)
    own_N = jnp.diagonal(logits_NN)
    losses_N = (jax.nn.logsumexp(logits_NN, axis=0) + jax.nn.logsumexp(logits_NN, axis=1)) / 2 - own_N
    right_N = own_N >= jnp.max(logits_NN, axis=1)
    count = jnp.maximum(jnp.sum(there_N), 1)
    return jnp.sum(losses_N * there_N) / count, jnp.sum(right_N * there_N) / count
