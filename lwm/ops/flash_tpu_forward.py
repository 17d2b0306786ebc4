"""The forward TPU kernel: online softmax of a block of queries over the run of key blocks that it may see.

Grid (B, M, blocks of queries, blocks of keys). The N query heads are M groups of G heads; the heads of a
group read the same block of keys. The running output is kept transposed, [H, q_size], beside the running
maximum and sum of its rows, [1, q_size]; a part that came in starts them.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lwm.ops.flash_tpu_tiles import Tiles


@functools.partial(jax.jit, static_argnames=("tiles", "cost", "interpret"))
def forward(q, k, v, ids, part, facts, tiles: Tiles, *, cost, interpret):
    """Attention by one kernel.

    Args:
      q: [B, M, G, T, H]; k, v: [B, K, S, H], M a multiple of K; T and S filled up to whole blocks.
      ids: () or (int32[B, 1, T], int32[B, 1, S]).
      part: () or (float32[B, M, G, T, H], float32[B, M, G, 1, T]); the results take their place, and blocks
        of queries that take no part stay as they are.
      facts: `tiles.facts(…, over="k")`.

    Returns:
      out and lse, as those of `part`.
    """
    B, M, G, T, H = q.shape
    rows, row, keys, id_specs = q_specs(q.shape, k.shape, tiles)
    first_part = len(facts) + 3 + len(ids)
    return pl.pallas_call(
        functools.partial(_kernel, tiles),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(facts),
            grid=(B, M, tiles.q_count, tiles.steps("k")),
            in_specs=[rows, keys, keys, *id_specs[: len(ids)], *((rows, row) if part else ())],
            out_specs=[rows, row],
            scratch_shapes=[
                pltpu.VMEM((G, H, tiles.q_size), jnp.float32),
                pltpu.VMEM((G, 1, tiles.q_size), jnp.float32),
                pltpu.VMEM((G, 1, tiles.q_size), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct((B, M, G, 1, T), jnp.float32),
        ],
        input_output_aliases={first_part: 0, first_part + 1: 1} if part else {},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")
        ),
        cost_estimate=cost,
        interpret=interpret,
        name="attend_block",
    )(*facts, q, k, v, *ids, *part)


def _kernel(tiles, *refs):
    facts, refs = tiles.take_facts(refs)
    (q_ref, k_ref, v_ref), refs = refs[:3], refs[3:]
    ids, refs = (refs[:2], refs[2:]) if tiles.segmented else ((), refs)
    part, (out_ref, lse_ref, acc_ref, top_ref, total_ref) = refs[:-5], refs[-5:]
    b, m, i, jj = (pl.program_id(axis) for axis in range(4))
    block = b * tiles.q_count + i
    count = facts[2][block]
    j = run_block(facts[1][block], count, jj)
    heads, H = q_ref.shape[0], q_ref.shape[-1]

    @pl.when(jj == 0)
    def start():
        for g in range(heads):
            acc_ref[g] = part[0][g].T if part else jnp.zeros(acc_ref.shape[1:], jnp.float32)
        top_ref[...] = part[1][...] if part else jnp.full(top_ref.shape, -jnp.inf, jnp.float32)
        total_ref[...] = jnp.full(total_ref.shape, 1.0 if part else 0.0, jnp.float32)

    def add(seen):
        k, v = k_ref[...], v_ref[...]
        for g in range(heads):
            scores = contract(k, q_ref[g], 1, 1) * H**-0.5
            if tiles.softcap:
                scores = tiles.softcap * jnp.tanh(scores / tiles.softcap)
            if seen is not None:
                scores = jnp.where(seen, scores, -jnp.inf)
            top = top_ref[g]
            higher = jnp.maximum(top, jnp.max(scores, axis=0, keepdims=True))
            # A row that has seen nothing yet has top = -inf; a shift of 0 keeps -inf - -inf away.
            shift = jnp.where(higher > -jnp.inf, higher, 0.0)
            weights, keep = jnp.exp(scores - shift), jnp.exp(top - shift)
            total_ref[g] = total_ref[g] * keep + jnp.sum(weights, axis=0, keepdims=True)
            top_ref[g] = higher
            if tiles.dropped:
                weights *= tiles.kept(facts, b, m * heads + g, i, j)
            acc_ref[g] = acc_ref[g] * keep + contract(v, weights.astype(v.dtype), 0, 0)

    tiles.visit(facts, b, i, j, jj < count, ids, add)

    @pl.when(jj == pl.num_programs(3) - 1)
    def finish():
        for g in range(heads):
            total = total_ref[g]
            some = jnp.where(total > 0, total, 1.0)
            out_ref[g] = (acc_ref[g] / some).T
            lse_ref[g] = jnp.where(total > 0, top_ref[g] + jnp.log(some), -jnp.inf)


def q_specs(q_shape, k_shape, tiles: Tiles):
    """Blocks of [B, M, G, T, H], [B, M, G, 1, T] and [B, K, S, H], and of ids, in a walk of queries.

    The grid is (B, M, blocks of queries, blocks of keys).
    """
    (_, M, G, _, H), K = q_shape, k_shape[1]
    share, q_size, k_size = M // K, tiles.q_size, tiles.k_size

    def at(b, i, jj, facts):
        block = b * tiles.q_count + i
        return run_block(facts[1][block], facts[2][block], jj)

    rows = pl.BlockSpec((None, None, G, q_size, H), lambda b, m, i, jj, *facts: (b, m, 0, i + facts[0][2], 0))
    row = pl.BlockSpec((None, None, G, 1, q_size), lambda b, m, i, jj, *facts: (b, m, 0, 0, i + facts[0][2]))
    keys = pl.BlockSpec(
        (None, None, k_size, H),
        lambda b, m, i, jj, *facts: (b, lax.div(m, share), at(b, i, jj, facts) + facts[0][3], 0),
    )
    id_specs = (
        pl.BlockSpec((None, 1, q_size), lambda b, m, i, jj, *facts: (b, 0, i)),
        pl.BlockSpec((None, 1, k_size), lambda b, m, i, jj, *facts: (b, 0, at(b, i, jj, facts))),
    )
    return rows, row, keys, id_specs


def run_block(first, count, step):
    """The block of a step; steps past the end stay on the last one, so that nothing is fetched for them."""
    return first + jnp.minimum(step, jnp.maximum(count - 1, 0))


def contract(a, b, a_axis, b_axis):
    """Matrix product over an axis of each, accumulated in float32; of float32 in full precision."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(
        a, b, (((a_axis,), (b_axis,)), ((), ())), precision=precision, preferred_element_type=jnp.float32
    )
