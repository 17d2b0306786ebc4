"""Vector quantisation: nearest codes, the two losses that train it, and the revival of dead codes.

VQ-VAE (1711.00937), equation 3: a latent z is replaced by its nearest code e, gradients of what follows are
handed to z as if nothing had happened (straight-through), and
    L_codebook   = ‖sg[z] − e‖²     moves codes to the latents that choose them,
    L_commitment = ‖z − sg[e]‖²     holds latents near their codes.
Here V is the number of codes and C the size of one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient


class Quantized(NamedTuple):
    """What `quantize` returns; the losses are means over vectors and channels, float32 scalars."""

    q_BPC: Array
    codes_BP: Array
    codebook_loss: Array
    commitment_loss: Array


def unit(x_BPC: Array) -> Array:
    """Scales vectors to length 1: distances become cosines, so no code is out of reach (2110.04627, 3.2)."""
    return x_BPC * jax.lax.rsqrt(jnp.sum(x_BPC**2, axis=-1, keepdims=True) + 1e-12)


def nearest(z_BPC: Array, codebook_VC: Array) -> tuple[Array, Array]:
    """The nearest code of each vector and its squared distance: (codes int32 BP, distances float32 BP).

    Works in float32 whatever the inputs are: near ties must not depend on the compute dtype.
    """
    z_BPC, codebook_VC = z_BPC.astype(jnp.float32), codebook_VC.astype(jnp.float32)
    scores_BPV = jnp.einsum("BPC,VC->BPV", z_BPC, codebook_VC) - jnp.sum(codebook_VC**2, axis=-1) / 2
    codes_BP = jnp.argmax(scores_BPV, axis=-1).astype(jnp.int32)
    distances_BP = jnp.sum(z_BPC**2, axis=-1) - 2 * jnp.max(scores_BPV, axis=-1)
    return codes_BP, jnp.maximum(distances_BP, 0.0)


def quantize(z_BPC: Array, codebook_VC: Array) -> Quantized:
    """Replaces vectors by their nearest codes; `q_BPC` equals the codes and has the gradient of `z_BPC`."""
    codes_BP, _ = nearest(stop_gradient(z_BPC), stop_gradient(codebook_VC))
    e_BPC = codebook_VC[codes_BP]
    return Quantized(
        q_BPC=z_BPC + stop_gradient(e_BPC - z_BPC),
        codes_BP=codes_BP,
        codebook_loss=jnp.mean((stop_gradient(z_BPC) - e_BPC) ** 2),
        commitment_loss=jnp.mean((z_BPC - stop_gradient(e_BPC)) ** 2),
    )


def counts(codes_BP: Array, size: int) -> Array:
    """How often each of `size` codes occurs: float32 [size]."""
    return jnp.zeros(size, jnp.float32).at[codes_BP.reshape(-1)].add(1.0)


def usage_and_perplexity(counts_V: Array) -> tuple[Array, Array]:
    """The fraction of codes that occur at all, and exp(entropy in nats) of how often they do."""
    p_V = counts_V / jnp.maximum(jnp.sum(counts_V), 1.0)
    entropy = -jnp.sum(p_V * jnp.log(jnp.maximum(p_V, 1e-12)))
    return jnp.mean(counts_V > 0), jnp.exp(entropy)


def revive(codebook_VC: Array, z_BPC: Array, key: Array, *, noise: float) -> Array:
    """Replaces the codes that no vector of `z_BPC` chooses by vectors of it, plus noise.

    The vectors are drawn without replacement, with probability proportional to their squared distance from
    their present code (the seeding of k-means++): dead codes go where the codebook is worst, instead of
    giving the commonest patch one more synonym, which would be noise to whoever predicts the codes.
    When there are more dead codes than vectors, vectors are used again.

    Args:
        codebook_VC: the codes.
        z_BPC: latents of one batch.
        key: the draw depends on nothing else.
        noise: standard deviation of the noise, in units of that of the latents.
    """
    V, C = codebook_VC.shape
    codes_BP, distances_BP = nearest(z_BPC, codebook_VC)
    dead_V = counts(codes_BP, V) == 0
    draw_key, noise_key = jax.random.split(key)
    # Gumbel top-k: the largest k of log p + Gumbel noise are k draws without replacement.
    ranks_N = jnp.log(distances_BP.reshape(-1) + 1e-12)
    ranks_N = ranks_N + jax.random.gumbel(draw_key, ranks_N.shape)
    _, drawn = jax.lax.top_k(ranks_N, min(V, ranks_N.size))
    place_V = (jnp.cumsum(dead_V) - 1) % drawn.size
    fresh_VC = z_BPC.reshape(-1, C)[drawn[place_V]].astype(codebook_VC.dtype)
    fresh_VC = fresh_VC + noise * jnp.std(z_BPC) * jax.random.normal(noise_key, fresh_VC.shape)
    return jnp.where(dead_V[:, None], fresh_VC, codebook_VC)
