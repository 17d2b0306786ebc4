"""Tokens go to their experts and come back: expert parallelism over the mesh axis "fsdp".

    tokens  ── queue of each expert, C places ──┐                       ┌── weighted sum ── tokens
    of a device                                 ├─ all-to-all ─ experts ─ all-to-all ─┤
                                                                                  of a device

Tokens are cut over ("data", "fsdp") and experts over "fsdp": each row of devices of "data" has all experts.
A device may send `capacity_factor` times the even share of its tokens to an expert; tokens beyond that are
left out by that expert (the residual connection carries them) and reported as such. Places are given in the
order of positions, then rows, then choices, so that no token loses its place to a later position: with a
causal network around it, dropping tells nothing of the future. Without a mesh the same code runs on one
device. Source: "Outrageously Large Neural Networks" (1701.06538), section 3.1; capacity as in GShard
(2006.16668), section 2.2.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lwm.ops.axes import ROWS, TENSOR, active, check_divides, per_device, pieces, spec

EXPERTS = ("fsdp",)


def capacity(tokens: int, experts: int, k: int, factor: float) -> int:
    """C, places that each expert has for the tokens of one device; factor 0 = room for all of them."""
    return tokens if not factor else min(tokens, max(1, math.ceil(factor * k * tokens / experts)))


def mix(
    xs: Sequence[jax.Array],
    experts: Sequence[jax.Array],
    gates: Sequence[jax.Array],
    w1_EDF: jax.Array,
    w2_EFD: jax.Array,
    *,
    capacity_factor: float,
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Σ over its experts of gate · relu(x w1) w2 for every token.

    Args:
      xs: arrays [B, T, D] of unlike B and T, whose tokens share the experts' capacity.
      experts, gates: [B, T, k] for each of them, see `moe.Routes`; a gate of 0 sends nothing.
      w1_EDF, w2_EFD: experts, taken in the dtype of x; products accumulate in float32.
      capacity_factor: see `capacity`.

    Returns:
      (outs, kept): outs as xs; kept bool [B, T, k], False where a gate is 0 or the expert had no place left.

    Raises:
      ValueError: the mesh does not divide the experts, the rows or F.
    """
    E, _, F = w1_EDF.shape
    check_divides("E", E, EXPERTS)
    check_divides("F", F, TENSOR)
    for x_BTD in xs:
        check_divides("B", x_BTD.shape[0], ROWS)
    rows = spec(ROWS)
    local = per_device(
        functools.partial(_mix, E=E, factor=capacity_factor),
        in_specs=(rows, rows, rows, spec(EXPERTS, (), TENSOR), spec(EXPERTS, TENSOR)),
        out_specs=(rows, rows),
    )
    with jax.named_scope("experts"):
        return local(tuple(xs), tuple(experts), tuple(gates), w1_EDF, w2_EFD)


def _mix(xs, experts, gates, w1_EDF, w2_EFD, *, E: int, factor: float):
    """`mix` for the tokens of one device; X counts them, K choices of experts."""
    D, k = xs[0].shape[-1], experts[0].shape[-1]
    x_XD = jnp.concatenate([x.reshape(-1, D) for x in xs])
    experts_Xk = jnp.concatenate([one.reshape(-1, k) for one in experts])
    gates_Xk = jnp.concatenate([one.reshape(-1, k) for one in gates])
    C = capacity(len(x_XD), E, k, factor)
    order_X = _by_position([x.shape[:2] for x in xs])
    place_Xk = _places(jnp.where(gates_Xk > 0, experts_Xk, E), order_X, E)
    kept_Xk = (gates_Xk > 0) & (place_Xk < C)
    # One place more than there are takes what is not kept.
    slot_Xk = jnp.where(kept_Xk, experts_Xk * C + place_Xk, E * C)
    queues_SD = jnp.zeros((E * C, D), x_XD.dtype)
    queues_SD = queues_SD.at[slot_Xk].set(x_XD[:, None], mode="drop")
    answers_SD = _ask(queues_SD.reshape(E, C, D), w1_EDF, w2_EFD).reshape(E * C, D)
    answers_XkD = answers_SD.at[slot_Xk].get(mode="fill", fill_value=0)
    out_XD = jnp.einsum("XkD,Xk->XD", answers_XkD.astype(jnp.float32), gates_Xk * kept_Xk).astype(x_XD.dtype)
    cuts = np.cumsum([x.shape[0] * x.shape[1] for x in xs])[:-1]
    outs = tuple(out.reshape(x.shape) for out, x in zip(jnp.split(out_XD, cuts), xs, strict=True))
    kept = tuple(one.reshape(own.shape) for one, own in zip(jnp.split(kept_Xk, cuts), experts, strict=True))
    return outs, kept


def _ask(queues_ECD, w1_EDF, w2_EFD):
    """Brings the queues of all devices of "fsdp" to the experts at hand, and the answers back."""
    n = pieces(EXPERTS)
    E, C, D = queues_ECD.shape
    if active(EXPERTS):
        queues_nECD = queues_ECD.reshape(n, E // n, C, D)
        queues_nECD = jax.lax.all_to_all(queues_nECD, EXPERTS, split_axis=0, concat_axis=0)
        queues_ECD = queues_nECD.swapaxes(0, 1).reshape(E // n, n * C, D)
    answers_ECD = _feed_forward(queues_ECD, w1_EDF, w2_EFD)
    if active(TENSOR):
        answers_ECD = jax.lax.psum(answers_ECD, TENSOR)
    answers_ECD = answers_ECD.astype(queues_ECD.dtype)
    if active(EXPERTS):
        answers_nECD = answers_ECD.reshape(E // n, n, C, D).swapaxes(0, 1)
        answers_nECD = jax.lax.all_to_all(answers_nECD, EXPERTS, split_axis=0, concat_axis=0)
        answers_ECD = answers_nECD.reshape(E, C, D)
    return answers_ECD


def _feed_forward(x_ECD, w1_EDF, w2_EFD):
    dtype = x_ECD.dtype
    h_ECF = jnp.einsum("ECD,EDF->ECF", x_ECD, w1_EDF.astype(dtype), preferred_element_type=jnp.float32)
    h_ECF = jax.nn.relu(h_ECF).astype(dtype)
    return jnp.einsum("ECF,EFD->ECD", h_ECF, w2_EFD.astype(dtype), preferred_element_type=jnp.float32)


def _by_position(shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The order in which tokens of [B, T] arrays, laid one after another, are given places: by position."""
    return np.argsort(np.concatenate([np.tile(np.arange(T), B) for B, T in shapes]), kind="stable")


def _places(experts_Xk: jax.Array, order_X: np.ndarray, E: int) -> jax.Array:
    """How many came before in the queue of the same expert, int32; E stands for no expert."""
    k = experts_Xk.shape[-1]
    waiting = experts_Xk[order_X].reshape(-1)
    by_expert = jnp.argsort(waiting, stable=True)
    counts = jnp.zeros(E + 1, jnp.int32).at[waiting].add(1)
    starts = jnp.cumsum(counts) - counts
    ranks = jnp.arange(len(waiting), dtype=jnp.int32) - starts[waiting[by_expert]]
    places = jnp.zeros_like(ranks).at[by_expert].set(ranks).reshape(-1, k)
    return jnp.zeros_like(places).at[order_X].set(places)
