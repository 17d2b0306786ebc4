"""The backward TPU kernel that makes dq, dk and dv in one walk: five products in a tile instead of seven.

Blocks of keys come one after the other, and each is walked over its queries: dk and dv of the block stay in
VMEM, while dq is added up where it lies in HBM. A step reads its block of dq, adds to it and writes it back,
both while other work goes on: the read during the products of the step, the write during the next step. Two
buffers take turns, and a block whose write is still on its way is waited for before it is read again.

One row of the batch with one key/value head is a single sequence of steps, so a chip of two cores needs at
least two of these; the kernels of flash_tpu_backward.py have no such limit. Heads and scores lie as they do
there.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from lwm.ops.flash_tpu_backward import kv_specs, tile_gradients
from lwm.ops.flash_tpu_forward import contract, run_block
from lwm.ops.flash_tpu_tiles import Tiles


def backward(q, k, v, ids, dout, lse, delta, facts, tiles: Tiles, *, cost, interpret):
    """dq, dk and dv, float32, shaped as q and k.

    Args:
      q, k, v, ids, dout, lse, delta, facts: as for `backward_kv`.
    """
    (B, M, G, _, H), K = q.shape, k.shape[1]
    rows, row, keys, id_specs = kv_specs(q.shape, k.shape, tiles)
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    dq = jnp.zeros(q.shape, jnp.float32)
    place = len(facts) + 3 + len(ids) + 3
    dk, dv, dq = pl.pallas_call(
        functools.partial(_kernel, tiles),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(facts),
            grid=(B, K, tiles.k_count, M // K, tiles.steps("q")),
            in_specs=[rows, keys, keys, *id_specs[: len(ids)], rows, row, row, anywhere],
            out_specs=[keys, keys, anywhere],
            scratch_shapes=[
                pltpu.VMEM((2, G, tiles.q_size, H), jnp.float32),
                pltpu.SemaphoreType.DMA((2, 2)),
                pltpu.SMEM((3,), jnp.int32),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (k, v, q)],
        input_output_aliases={place: 2},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary", "arbitrary")
        ),
        cost_estimate=cost,
        interpret=interpret,
        name="attend_block_grad",
    )(*facts, q, k, v, *ids, dout, lse, delta, dq)
    return dq, dk, dv


def _kernel(tiles, *refs):
    facts, refs = tiles.take_facts(refs)
    (q_ref, k_ref, v_ref), refs = refs[:3], refs[3:]
    ids, (dout_ref, lse_ref, delta_ref, _, dk_ref, dv_ref, dq_ref, buffer, semaphores, held) = (
        refs[:-10],
        refs[-10:],
    )
    b, n, j, c, ii = (pl.program_id(axis) for axis in range(5))
    groups, last = pl.num_programs(3), (tiles.k_count - 1, pl.num_programs(3) - 1, pl.num_programs(4) - 1)
    block = b * tiles.k_count + j
    count, (heads, _, H) = facts[2][block], q_ref.shape
    i = run_block(facts[1][block], count, ii)
    m, scale = n * groups + c, H**-0.5
    # What `held` says: how many tiles were done, and of which block the write from each buffer is on its way.
    nothing = -1

    def read(slot):
        return pltpu.make_async_copy(at_home(), buffer.at[slot], semaphores.at[0, slot])

    def write(slot):
        return pltpu.make_async_copy(buffer.at[slot], at_home(), semaphores.at[1, slot])

    def at_home():
        return dq_ref.at[b, m, :, pl.ds(i * tiles.q_size, tiles.q_size), :]

    def await_write(slot, condition):
        @pl.when(condition)
        def land():
            write(slot).wait()
            held[1 + slot] = nothing

    @pl.when((j == 0) & (c == 0) & (ii == 0))
    def start():
        held[0] = 0
        held[1] = held[2] = nothing

    @pl.when((c == 0) & (ii == 0))
    def start_block():
        dk_ref[...] = jnp.zeros(dk_ref.shape, jnp.float32)
        dv_ref[...] = jnp.zeros(dv_ref.shape, jnp.float32)

    def add(seen):
        done, here = held[0], c * tiles.q_count + i
        slot = lax.rem(done, 2)
        await_write(slot, held[1 + slot] != nothing)
        await_write(1 - slot, held[2 - slot] == here)
        read(slot).start()
        k, v = k_ref[...], v_ref[...]
        for g in range(heads):
            kept = tiles.kept(facts, b, m * heads + g, i, j) if tiles.dropped else None
            q, dout = q_ref[g], dout_ref[g]
            weights, dscores = tile_gradients(q, k, v, dout, lse_ref[g], delta_ref[g], seen, kept, tiles)
            dv_ref[...] += contract(weights, dout, 1, 0)
            dk_ref[...] += contract(dscores, q, 1, 0)
            dq = contract(k, dscores, 0, 0).T * scale
            if g == 0:
                read(slot).wait()
            buffer[slot, g] += dq
        write(slot).start()
        held[1 + slot] = here
        held[0] = done + 1

    tiles.visit(facts, b, i, j, ii < count, ids, add)

    @pl.when((c == last[1]) & (ii == last[2]))
    def finish_block():
        dk_ref[...] *= scale

    @pl.when((j == last[0]) & (c == last[1]) & (ii == last[2]))
    def finish():
        for slot in range(2):
            await_write(slot, held[1 + slot] != nothing)
