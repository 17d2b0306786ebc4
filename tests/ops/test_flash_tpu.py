"""The TPU kernels, interpreted on a CPU, against attention with all scores at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from lwm.ops import attention, flash_tpu, flash_tpu_tiles
from lwm.ops.dropout import Dropout
from lwm.ops.masks import EVERYTHING, Mask
from lwm.ops.ring_attention import ring_attention
from lwm.ops.stripes import GAPLESS, Stripes

H = 64


def dense(
    q, k, v, q_segments, k_segments, *, mask, q_start=0, k_start=0, stripes=GAPLESS, softcap=0.0, dropout=None
):
    """(out, lse) with all scores at once, float32 in full precision."""
    (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
    k, v = (jnp.repeat(x.astype(jnp.float32), N // K, axis=2) for x in (k, v))
    scores = jnp.einsum("BTNH,BSNH->BNTS", q.astype(jnp.float32), k) * q.shape[-1] ** -0.5
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    q_positions, k_positions = (
        stripes.position(q_start, jnp.arange(T)),
        stripes.position(k_start, jnp.arange(S)),
    )
    seen = mask.visible(q_positions, k_positions)[None, None]
    if q_segments is not None:
        seen = seen & mask.sees_ids(q_segments[:, None, :, None], k_segments[:, None, None, :])
    some = jnp.any(seen, axis=-1, keepdims=True)
    scores = jnp.where(seen, scores, -jnp.inf)
    weights = jnp.where(some, jax.nn.softmax(jnp.where(some, scores, 0.0), axis=-1), 0.0)
    lse = jnp.where(some[..., 0], jax.nn.logsumexp(jnp.where(some, scores, 0.0), axis=-1), -jnp.inf)
    if dropout is not None:
        rows, heads = jnp.arange(B)[:, None, None, None], jnp.arange(N)[:, None, None]
        weights = weights * dropout.kept(rows, heads, q_positions[:, None], k_positions)
    return jnp.einsum("BNTS,BSNH->BTNH", weights, v), jnp.broadcast_to(lse, (B, N, T)).swapaxes(1, 2)


def inputs(B, T, S, N, K, dtype, size=H, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = (B, T, N, size), (B, S, K, size), (B, S, K, size), (B, T, N, size)
    return [jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)]


def packed(B, length, seed, padding=20):
    """Segment ids that grow along each row, the last places padding."""
    starts = np.random.default_rng(seed).random((B, length)) < 4 / length
    ids = 1 + np.cumsum(starts, axis=1)
    ids[:, length - padding :] = 0
    return jnp.asarray(ids, jnp.int32)


DEFAULTS = dict(
    B=1, T=256, S=256, N=1, K=1, size=H, dtype=jnp.float32, segments=False, dropout=0.0, halves=False
)
CASES = {
    "causal, MHA": dict(mask=Mask(), N=2, K=2),
    "causal, GQA, segments": dict(mask=Mask(), N=4, K=2, B=2, segments=True, halves=True),
    "full, MQA, soft cap, ragged": dict(mask=EVERYTHING, N=3, K=1, T=200, S=300, softcap=5.0),
    "full, segments, ragged": dict(mask=EVERYTHING, T=130, S=260, B=2, segments=True),
    "frames, offsets": dict(mask=Mask(frame=48), N=2, K=1, T=256, S=384, q_start=96, k_start=17, halves=True),
    "window, some rows see nothing": dict(mask=Mask(window=40), T=384, S=384, q_start=300, k_start=100),
    "window, frames, segments": dict(mask=Mask(window=150, frame=7), T=384, S=384, segments=True, N=2),
    "causal, GQA, one head at a time": dict(mask=Mask(), N=4, K=2, vmem=0),
    "ordered": dict(mask=Mask(causal=False, ordered=True), T=256, S=384, N=4, K=2, segments=True),
    "frames of several clips": dict(
        mask=Mask(causal=False, ordered=True, frame_bits=2), T=256, S=384, N=4, K=2, segments=True
    ),
    "keys come later": dict(mask=Mask(), q_start=0, k_start=1000),
    "stripes, segments": dict(
        mask=Mask(frame=48),
        T=768,
        S=768,
        q_start=768,
        k_start=384,
        segments=True,
        halves=True,
        stripes=Stripes(384, 4 * 384),
    ),
    "stripes, keys begin later, window, dropout": dict(
        mask=Mask(window=500),
        T=512,
        S=512,
        q_start=256,
        k_start=768,
        N=2,
        dropout=0.3,
        stripes=Stripes(256, 4 * 256),
    ),
    "dropout, GQA, segments": dict(mask=Mask(), N=4, K=2, B=2, segments=True, dropout=0.3, softcap=9.0),
    "head size 128, bfloat16": dict(mask=Mask(), N=2, K=1, size=128, dtype=jnp.bfloat16),
}


OPTIONS = "mask", "q_start", "k_start", "stripes", "softcap"


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, monkeypatch):
    case = DEFAULTS | CASES[name]
    if "vmem" in case:
        monkeypatch.setattr(flash_tpu_tiles, "VMEM", case["vmem"])
    B, T, S = case["B"], case["T"], case["S"]
    q, k, v, dout = inputs(B, T, S, case["N"], case["K"], case["dtype"], case["size"])
    segments = (packed(B, T, 1), packed(B, S, 2)) if case["segments"] else (None, None)
    if case["segments"] and T == S:
        segments = segments[0], segments[0]
    options = {name: case[name] for name in case if name in OPTIONS}
    if case["dropout"]:
        options["dropout"] = Dropout(case["dropout"], jnp.uint32(7), row=3, head=5)
    reference = jax.jit(functools.partial(dense, **options))
    (out, lse), pull = jax.vjp(lambda *qkv: reference(*qkv, *segments), q, k, v)
    expected = pull((dout.astype(jnp.float32), jnp.zeros_like(lse)))

    pieces = [slice(0, S)] if not case["halves"] else [slice(0, S // 2), slice(S // 2, S)]
    part, dq, dkv = None, 0.0, []
    q_start, k_start = (options.pop(name, 0) for name in ("q_start", "k_start"))
    delta = jnp.sum(dout.astype(jnp.float32) * out, axis=-1)
    for piece in pieces:
        k_segments = None if segments[1] is None else segments[1][:, piece]
        arrays = q, k[:, piece], v[:, piece], segments[0], k_segments
        starts = q_start, options.get("stripes", GAPLESS).position(k_start, piece.start)
        part = run(flash_tpu.attend_block, arrays, starts, part=part, **options)
        grads = run(flash_tpu.attend_block_grad, (*arrays, dout, lse, delta), starts, **options)
        dq, dkv = dq + grads[0], [*dkv, grads[1:]]
    (got, got_lse), grads = part, (dq, *(jnp.concatenate(x, axis=1) for x in zip(*dkv, strict=True)))
    tolerance = 2e-6 if case["dtype"] == jnp.float32 else 1e-2
    empty = np.asarray(lse) == -np.inf
    assert np.array_equal(np.asarray(got_lse) == -np.inf, empty)
    close(np.where(empty, 0, got_lse), np.where(empty, 0, lse), 2e-6)
    assert not np.any(np.asarray(got)[empty]) and not np.any(np.asarray(grads[0])[empty])
    for ours, theirs in zip((got, *grads), (out, *expected), strict=True):
        assert ours.dtype == jnp.float32
        close(ours, theirs.astype(jnp.float32), tolerance)


def run(function, arrays, starts, mask, softcap=0.0, stripes=GAPLESS, **traced):
    """One call under jit, everything traced that may be; compiled fast rather than well."""
    lengths = {name: traced[name][1] for name in ("q_run", "k_run") if name in traced}

    def call(arrays, starts, traced):
        traced |= {name: (traced[name][0], length) for name, length in lengths.items()}
        traced |= zip(("q_start", "k_start"), starts, strict=True)
        static = {"block": 128, "mask": mask, "softcap": softcap, "stripes": stripes, "interpret": True}
        return function(*arrays, **static, **traced)

    fast = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(call, compiler_options=fast)(arrays, starts, traced)


def close(a, b, tolerance):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.all(np.isfinite(a))
    assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("K", [1, 2])
def test_on_simulated_tpu_memory(K):
    """What a step reads was written before it, and within bounds: NaN fills memory that nobody wrote.

    A copy happens as late as it may, when it is waited for, and copies must not race with each other.
    """
    q, k, v, dout = inputs(1, 140, 250, 2, K, jnp.float32)
    segments = packed(1, 140, 1), packed(1, 250, 2)
    simulated = pltpu.InterpretParams(detect_races=True, out_of_bounds_reads="raise")
    options = dict(mask=Mask(window=90), block=128, q_start=100, interpret=simulated)
    out, lse = flash_tpu.attend_block(q, k, v, *segments, **options)
    grads = flash_tpu.attend_block_grad(q, k, v, *segments, dout, lse, jnp.sum(dout * out, -1), **options)
    reference = functools.partial(dense, mask=Mask(window=90), q_start=100)
    (expected, expected_lse), pull = jax.vjp(lambda *qkv: reference(*qkv, *segments), q, k, v)
    for ours, theirs in zip((out, *grads), (expected, *pull((dout, jnp.zeros_like(lse)))), strict=True):
        close(ours, theirs, 2e-6)


def test_rows_and_keys_that_meet_nothing():
    """A part passes through keys that it does not see, bit for bit; without one the result is 0 and -inf."""
    q, k, v, dout = inputs(1, 128, 256, 2, 2, jnp.float32)
    before = jax.random.normal(jax.random.key(5), q.shape), jnp.full((1, 128, 2), -3.0)
    starts = 0, 1000
    after = run(flash_tpu.attend_block, (q, k, v), starts, part=before, mask=Mask())
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))
    out, lse = run(flash_tpu.attend_block, (q, k, v), starts, mask=Mask())
    assert not np.any(out) and np.all(np.isneginf(lse))
    grads = run(flash_tpu.attend_block_grad, (q, k, v, None, None, dout, lse, lse * 0), starts, mask=Mask())
    assert not any(np.any(grad) for grad in grads)


@pytest.mark.parametrize("K", [1, 2])
def test_runs_are_worked_on_where_they_lie(K):
    """A run gives what its positions cut out give, bit for bit, and the rest of the sums stays as it was."""
    q, k, v, dout = inputs(1, 512, 384, 2, K, jnp.float32)
    segments = packed(1, 512, 1), packed(1, 384, 2)
    rows = jnp.full((1, 512, 2), 4.0), jnp.zeros((1, 512, 2))
    part, dq = (jnp.ones(q.shape), rows[0]), jnp.full(q.shape, 2.0)
    mine, theirs = slice(256, 512), slice(128, 256)
    runs = {"q_run": (jnp.int32(256), 256), "k_run": (128, 128)}
    options = dict(mask=Mask(causal=False, ordered=True), starts=(5, 9))

    def cut(*arrays):
        return [x[:, mine] for x in arrays]

    keys = k[:, theirs], v[:, theirs], segments[0][:, mine], segments[1][:, theirs]
    ours = run(flash_tpu.attend_block, (q, k, v, *segments), part=part, **runs, **options)
    expected = run(flash_tpu.attend_block, (*cut(q), *keys), part=cut(*part), **options)
    for after, new, before in zip(ours, expected, part, strict=True):
        assert np.array_equal(after, before.at[:, mine].set(new))
    ours = run(flash_tpu.attend_block_grad, (q, k, v, *segments, dout, *rows), dq=dq, **runs, **options)
    expected = run(flash_tpu.attend_block_grad, (*cut(q), *keys, *cut(dout, *rows)), **options)
    close(ours[0], dq.at[:, mine].add(expected[0]), 1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(ours[1:], expected[1:], strict=True))


@pytest.mark.parametrize("mask", [Mask(window=130), Mask()])
def test_dead_tiles_are_neither_run_nor_fetched(mask):
    """Runs of blocks end where the mask does, and a window shortens the grid itself."""
    tiles = flash_tpu_tiles.Tiles(mask, 1024, 1024, 128, 128, segmented=False)
    _, first, count = tiles.facts((), jnp.array([0, 0]), 1, over="k")
    if mask.window:
        assert tiles.steps("k") == 4 and list(count) == [1, 2, 3, 3, 3, 3, 3, 3]
        assert list(first) == [0, 0, 0, 1, 2, 3, 4, 5]
    else:
        assert list(count) == list(range(1, 9)) and not np.any(first)


def test_segments_shorten_runs():
    tiles = flash_tpu_tiles.Tiles(Mask(), 512, 512, 128, 128, segmented=True)
    ids = jnp.repeat(jnp.array([[1, 2, 3, 0]]), 128, axis=1)
    _, first, count, *ranges = tiles.facts((ids, ids), jnp.array([0, 0]), 1, over="k")
    assert list(first) == [0, 1, 2, 0] and list(count) == [1, 1, 1, 0]
    assert max(x.size for x in ranges) == 3 * 4


@pytest.mark.parametrize("platform, kernels", [("tpu", 1), ("cpu", 0)])
def test_the_platform_of_the_program_chooses(platform, kernels):
    q, k, v, _ = inputs(1, 256, 256, 2, 1, jnp.bfloat16)
    program = jax.jit(functools.partial(attention.attend_block, mask=Mask(), block=128)).trace(q, k, v)
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("@tpu_custom_call") == kernels


@pytest.mark.parametrize("options", [{"stripe": 0}, {"stripe": 128}], ids=["one turn", "two turns"])
def test_ring_attention_runs_on_the_kernels(mesh_of, options):
    with jax.set_mesh(mesh_of(seq=4)):
        q, k, v, _ = inputs(1, 2048, 2048, 2, 1, jnp.bfloat16)

        def loss(q, k, v):
            return jnp.sum(ring_attention(q, k, v, block=128, **options).astype(jnp.float32))

        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, v)
        text = program.lower(lowering_platforms=("tpu",)).as_text()
    assert all(f'kernel_name = "attend_block{part}"' in text for part in ("", "_grad_q", "_grad_kv"))
    assert "dot_general" not in text


@pytest.mark.parametrize("size, stripes", [(16, GAPLESS), (H, Stripes(8, 16))])
def test_what_no_kernel_tiles_stays_with_xla(size, stripes):
    q, k, v, _ = inputs(1, 16, 16, 2, 1, jnp.float32, size=size)
    options = {"mask": Mask(), "block": 8, "stripes": stripes}
    program = jax.jit(functools.partial(attention.attend_block, **options)).trace(q, k, v)
    assert "tpu_custom_call" not in program.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    "size, dtype, N, message",
    [
        (80, "float32", 2, "H: 80"),
        (64, "float16", 2, "dtype: queries float16"),
        (64, "float32", 3, "q_BTNH: 3"),
    ],
)
def test_names_what_cannot_work(size, dtype, N, message):
    q, k, v, _ = inputs(1, 128, 128, N, 2, dtype, size)
    with pytest.raises(ValueError, match=message):
        flash_tpu.attend_block(q, k, v, mask=Mask(), block=128)


def test_stripes_that_are_no_whole_lanes():
    q, k, v, _ = inputs(1, 16, 16, 1, 1, jnp.float32)
    with pytest.raises(ValueError, match="stripes: 8 positions; a multiple of 128"):
        flash_tpu.attend_block(q, k, v, mask=Mask(), block=128, stripes=Stripes(8, 16))


def test_segments_of_one_side_only():
    q, k, v, _ = inputs(1, 128, 128, 2, 2, jnp.float32)
    with pytest.raises(ValueError, match="segments"):
        flash_tpu.attend_block(q, k, v, packed(1, 128, 0), mask=Mask(), block=128)
