"""Which experts a token goes to: noisy top-k gating and the losses that keep experts in use.

"Outrageously Large Neural Networks" (1701.06538), equations 3 to 11:

    H = x W_g + ε · softplus(x W_n)              ε normal, in training alone
    G = softmax of the k largest entries of H     0 for all other experts
    importance = Σ over tokens of G               load = Σ of the probability of being among the k

Both sums should be equal for all experts: the loss is the square of their coefficient of variation. Sums are
over the whole batch, whatever the mesh: they may be added up over several calls before `cv_squared`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

NOISE_FLOOR = 1e-2  # added to the standard deviation, as in the released code, so that noise never dies


class Routes(NamedTuple):
    """Where tokens go.

    Attributes:
      experts: int32 [B, T, k], the experts of each token, the best one first.
      gates: float32 [B, T, k], their weights; they add up to 1, or to 0 for what is no token.
      importance_E: float32, sum of the weights of each expert.
      load_E: float32, expected number of tokens of each expert; without noise the number itself.
    """

    experts: jax.Array
    gates: jax.Array
    importance_E: jax.Array
    load_E: jax.Array


def noisy_top_k(
    x_BTD: jax.Array,
    gate_DE: jax.Array,
    noise_DE: jax.Array,
    valid_BT: jax.Array,
    *,
    k: int,
    key: jax.Array | None = None,
) -> Routes:
    """Chooses k experts for each token, in float32.

    Args:
      x_BTD: activations of any float dtype.
      gate_DE, noise_DE: float32, W_g and W_n.
      valid_BT: bool, what is a token; padding has gates of 0 and counts nowhere.
      k: experts of a token.
      key: of the noise; None = no noise.

    Raises:
      ValueError: k is not between 1 and the number of experts.
    """
    E = gate_DE.shape[-1]
    if not 1 <= k <= E:
        raise ValueError(f"k: {k} of {E} experts; choose 1 to {E}")
    with jax.named_scope("gating"):
        x_BTD = x_BTD.astype(jnp.float32)
        clean_BTE = _product(x_BTD, gate_DE)
        deviation_BTE = jax.nn.softplus(_product(x_BTD, noise_DE)) + NOISE_FLOOR
        logits_BTE = clean_BTE
        if key is not None:
            logits_BTE += deviation_BTE * jax.random.normal(key, clean_BTE.shape)
        best, experts = jax.lax.top_k(logits_BTE, min(k + 1, E))
        gates = jax.nn.softmax(best[..., :k], axis=-1) * valid_BT[..., None]
        chosen_BTkE = jax.nn.one_hot(experts[..., :k], E)
        importance_E = jnp.einsum("BTk,BTkE->E", gates, chosen_BTkE)
        if key is None or k == E:
            inside_BTE = jnp.sum(chosen_BTkE, axis=-2)
        else:
            inside_BTE = _probability_inside(clean_BTE, deviation_BTE, logits_BTE, best)
        load_E = jnp.einsum("BTE,BT->E", inside_BTE, valid_BT.astype(jnp.float32))
        return Routes(experts[..., :k].astype(jnp.int32), gates, importance_E, load_E)


def cv_squared(sums_E: jax.Array) -> jax.Array:
    """Variance over squared mean: 0 if all are equal, and for a single expert or no tokens."""
    return jnp.var(sums_E) / (jnp.square(jnp.mean(sums_E)) + 1e-10)


def _probability_inside(clean_BTE, deviation_BTE, logits_BTE, best):
    """Equation 8: that an expert is among the k best if its noise, and no other, were drawn again.

    To be inside it has to exceed the k-th largest of the *others*: entry k + 1 of all for an expert that is
    inside now, entry k for one that is not.
    """
    outside, inside = best[..., -2, None], best[..., -1, None]
    threshold_BTE = jnp.where(logits_BTE > inside, inside, outside)
    return jax.scipy.stats.norm.cdf((clean_BTE - threshold_BTE) / deviation_BTE)


def _product(x_BTD, w_DE):
    # Near ties would else be decided differently on a TPU, whose default product is of bfloat16.
    return jnp.einsum("BTD,DE->BTE", x_BTD, w_DE, precision=jax.lax.Precision.HIGHEST)
