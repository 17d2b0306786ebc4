"""The backward TPU kernels: one walks over keys for dq, the other over queries for dk and dv.

Both recompute the weights from the log-sum-exp of the whole row (FlashAttention-2, arXiv 2307.08691,
algorithm 2). Heads and scores lie as in flash_tpu_forward.py. Rows that saw nothing come with lse = +inf.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lwm.ops.flash_tpu_forward import contract, q_specs, run_block
from lwm.ops.flash_tpu_tiles import Tiles


@functools.partial(jax.jit, static_argnames=("tiles", "cost", "interpret"))
def backward_q(q, k, v, ids, dout, lse, delta, dq, facts, tiles: Tiles, *, cost, interpret):
    """dq with what is added to it in its place, float32 and shaped as q: [B, M, G, T, H].

    Args:
      q, k, v, ids: as for `forward`.
      dout: as q; lse, delta: float32[B, M, G, 1, T].
      facts: `tiles.facts(…, over="k")`.
    """
    B, M, G, _, H = q.shape
    rows, row, keys, id_specs = q_specs(q.shape, k.shape, tiles)
    return pl.pallas_call(
        functools.partial(_q_kernel, tiles),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(facts),
            grid=(B, M, tiles.q_count, tiles.steps("k")),
            in_specs=[rows, keys, keys, *id_specs[: len(ids)], rows, row, row, rows],
            out_specs=rows,
            scratch_shapes=[pltpu.VMEM((G, H, tiles.q_size), jnp.float32)],
        ),
        out_shape=jax.ShapeDtypeStruct(q.shape, jnp.float32),
        input_output_aliases={len(facts) + 3 + len(ids) + 3: 0},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        cost_estimate=cost,
        interpret=interpret,
        name="attend_block_grad_q",
    )(*facts, q, k, v, *ids, dout, lse, delta, dq)


@functools.partial(jax.jit, static_argnames=("tiles", "cost", "interpret"))
def backward_kv(q, k, v, ids, dout, lse, delta, facts, tiles: Tiles, *, cost, interpret):
    """dk and dv, float32, [B, K, S, H] as k. Arguments as for `backward_q`, but facts with over="q"."""
    (B, M), K = q.shape[:2], k.shape[1]
    rows, row, keys, sums, id_specs = kv_specs(q.shape, k.shape, tiles)
    return pl.pallas_call(
        functools.partial(_kv_kernel, tiles),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(facts),
            grid=(B, K, tiles.k_count, M // K, tiles.steps("q")),
            in_specs=[rows, keys, keys, *id_specs[: len(ids)], rows, row, row],
            out_specs=[sums, sums],
        ),
        out_shape=[sums_shape(k, tiles)] * 2,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary", "arbitrary")
        ),
        cost_estimate=cost,
        interpret=interpret,
        name="attend_block_grad_kv",
    )(*facts, q, k, v, *ids, dout, lse, delta)


def kv_specs(q_shape, k_shape, tiles: Tiles):
    """Blocks of [B, M, G, T, H], [B, M, G, 1, T], [B, K, S, H], of dk and dv, and of ids, in a walk of keys.

    The grid is (B, K, blocks of keys, groups of query heads that share them, blocks of queries).
    """
    (_, M, G, _, H), K = q_shape, k_shape[1]
    share, q_size, k_size = M // K, tiles.q_size, tiles.k_size

    def at(b, j, ii, facts):
        block = b * tiles.k_count + j
        return run_block(facts[1][block], facts[2][block], ii)

    rows = pl.BlockSpec(
        (None, None, G, q_size, H),
        lambda b, n, j, c, ii, *facts: (b, n * share + c, 0, at(b, j, ii, facts) + facts[0][2], 0),
    )
    row = pl.BlockSpec(
        (None, None, G, 1, q_size),
        lambda b, n, j, c, ii, *facts: (b, n * share + c, 0, 0, at(b, j, ii, facts) + facts[0][2]),
    )
    keys, sums = (
        pl.BlockSpec(
            (None, None, k_size, H),
            lambda b, n, j, c, ii, *facts, own=own: (b, n, j + (0 if own else facts[0][3]), 0),
        )
        for own in (False, True)
    )
    id_specs = (
        pl.BlockSpec((None, 1, q_size), lambda b, n, j, c, ii, *facts: (b, 0, at(b, j, ii, facts))),
        pl.BlockSpec((None, 1, k_size), lambda b, n, j, c, ii, *facts: (b, 0, j)),
    )
    return rows, row, keys, sums, id_specs


def sums_shape(k, tiles: Tiles):
    """dk or dv of the keys that take part."""
    return jax.ShapeDtypeStruct((*k.shape[:2], tiles.k_length_filled, k.shape[3]), jnp.float32)


def _q_kernel(tiles, *refs):
    facts, refs = tiles.take_facts(refs)
    (q_ref, k_ref, v_ref), refs = refs[:3], refs[3:]
    ids, (dout_ref, lse_ref, delta_ref, before_ref, dq_ref, acc_ref) = refs[:-6], refs[-6:]
    b, m, i, jj = (pl.program_id(axis) for axis in range(4))
    block = b * tiles.q_count + i
    count, heads = facts[2][block], q_ref.shape[0]
    j = run_block(facts[1][block], count, jj)

    @pl.when(jj == 0)
    def start():
        acc_ref[...] = jnp.zeros(acc_ref.shape, jnp.float32)

    def add(seen):
        k, v = k_ref[...], v_ref[...]
        for g in range(heads):
            kept = tiles.kept(facts, b, m * heads + g, i, j) if tiles.dropped else None
            q, dout = q_ref[g], dout_ref[g]
            _, dscores = tile_gradients(q, k, v, dout, lse_ref[g], delta_ref[g], seen, kept, tiles)
            acc_ref[g] += contract(k, dscores, 0, 0)

    tiles.visit(facts, b, i, j, jj < count, ids, add)

    @pl.when(jj == pl.num_programs(3) - 1)
    def finish():
        for g in range(heads):
            dq_ref[g] = before_ref[g] + acc_ref[g].T * q_ref.shape[-1] ** -0.5


def _kv_kernel(tiles, *refs):
    facts, refs = tiles.take_facts(refs)
    (q_ref, k_ref, v_ref), refs = refs[:3], refs[3:]
    ids, (dout_ref, lse_ref, delta_ref, dk_ref, dv_ref) = refs[:-5], refs[-5:]
    b, n, j, c, ii = (pl.program_id(axis) for axis in range(5))
    block = b * tiles.k_count + j
    count, heads = facts[2][block], q_ref.shape[0]
    i = run_block(facts[1][block], count, ii)

    @pl.when((c == 0) & (ii == 0))
    def start():
        dk_ref[...] = jnp.zeros(dk_ref.shape, jnp.float32)
        dv_ref[...] = jnp.zeros(dv_ref.shape, jnp.float32)

    def add(seen):
        k, v = k_ref[...], v_ref[...]
        for g in range(heads):
            head = (n * pl.num_programs(3) + c) * heads + g
            kept = tiles.kept(facts, b, head, i, j) if tiles.dropped else None
            q, dout = q_ref[g], dout_ref[g]
            weights, dscores = tile_gradients(q, k, v, dout, lse_ref[g], delta_ref[g], seen, kept, tiles)
            dv_ref[...] += contract(weights, dout, 1, 0)
            dk_ref[...] += contract(dscores, q, 1, 0)

    tiles.visit(facts, b, i, j, ii < count, ids, add)

    @pl.when((c == pl.num_programs(3) - 1) & (ii == pl.num_programs(4) - 1))
    def finish():
        dk_ref[...] *= q_ref.shape[-1] ** -0.5


def tile_gradients(q, k, v, dout, lse, delta, seen, kept, tiles):
    """Weights of a tile, and the gradient of its scores before scaling: [k_size, q_size] in the type of q."""
    scores = contract(k, q, 1, 1) * q.shape[-1] ** -0.5
    if tiles.softcap:
        bent = jnp.tanh(scores / tiles.softcap)
        scores = tiles.softcap * bent
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    weights, dweights = jnp.exp(scores - lse), contract(v, dout, 1, 1)
    dscores = weights * ((dweights if kept is None else dweights * kept) - delta)
    if tiles.softcap:
        dscores *= 1.0 - bent * bent
    return (weights if kept is None else weights * kept).astype(q.dtype), dscores.astype(q.dtype)
