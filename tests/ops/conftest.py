"""Arrays and segments for the tests of operations, and attention in float64 by the textbook."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.ring_attention import ring_attention
from lwm.parallel.layout import zigzag_order


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def qkv(rng):
    """Returns `qkv(B, T, S, N, K, H)`: queries, keys, values and a gradient of the output."""

    def make(B, T, S, N, K, H, dtype=jnp.float32):
        shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)
        return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)

    return make


@pytest.fixture
def packed(rng):
    """Returns `packed(B, T)`: segments 1, 2, … of random lengths in each row, then padding (0)."""

    def make(B, T):
        rows = np.zeros((B, T), np.int32)
        for row in rows:
            ends = np.sort(rng.choice(np.arange(1, T), size=3, replace=False))
            row[: ends[2]] = 1 + np.searchsorted(ends[:2], np.arange(ends[2]), side="right")
        return jnp.asarray(rows)

    return make


@pytest.fixture(scope="session")
def dense64():
    """NumPy in float64: `attention`, `visible` (from positions), `same_segment`, `error` (to the largest)."""
    return types.SimpleNamespace(
        attention=_attention64, visible=_visible, same_segment=_same_segment, error=_error
    )


@pytest.fixture(scope="session")
def exact():
    """`make` inputs, run them `in_ring`, or `check` the ring against float64."""
    return types.SimpleNamespace(make=_make, in_ring=_in_ring, check=_check)


def _error(got, want):
    got, want = np.asarray(got).astype(np.float64), np.asarray(want)
    return float(np.max(np.abs(got - want)) / max(np.max(np.abs(want)), 1e-30))


def _visible(T, S, causal=True, frame=1, window=0, q_first=0, k_first=0):
    """bool[T, S], pair by pair from the definition."""
    seen = np.zeros((T, S), bool)
    for i in range(T):
        for j in range(S):
            q, k = q_first + i, k_first + j
            seen[i, j] = (not causal or k // frame <= q // frame) and (not window or q - k < window)
    return seen


def _same_segment(q_segments, k_segments, ordered=False, frame_bits=0):
    """bool[B, T, S]."""
    q, k = q_segments[:, :, None], k_segments[:, None, :]
    same_clip = q // 2**frame_bits == k // 2**frame_bits if frame_bits else True
    return (k > 0) & ((k <= q) if ordered else (k == q)) & same_clip


def _attention64(q, k, v, dout, seen, softcap=0.0, sinks=None, kept=None):
    """(out, dq, dk, dv, dsinks_BNT) in float64; the gradient of a sink is the sum of dsinks_BNT over B and T.

    q, dout are [B, T, N, H]; k, v are [B, S, K, H]; seen is bool [B or 1, T, S]; kept, [B, N, T, S],
    multiplies the weights (dropout).
    """
    q, k, v, dout = (np.asarray(x).astype(np.float64) for x in (q, k, v, dout))
    (_, _, N, H), K = q.shape, k.shape[2]
    k_all, v_all = np.repeat(k, N // K, axis=2), np.repeat(v, N // K, axis=2)
    scores = np.einsum("btnh,bsnh->bnts", q, k_all) / np.sqrt(H)
    slope = np.ones_like(scores)
    if softcap:
        slope = 1 / np.cosh(scores / softcap) ** 2
        scores = softcap * np.tanh(scores / softcap)
    scores = np.where(seen[:, None], scores, -np.inf)
    sink = np.full(N, -np.inf) if sinks is None else np.asarray(sinks).astype(np.float64)
    sink = np.broadcast_to(sink[None, :, None, None], scores[..., :1].shape)
    top = np.maximum(scores.max(axis=-1, keepdims=True), sink)
    top = np.where(top > -np.inf, top, 0.0)
    weights, sink_weight = np.exp(scores - top), np.exp(sink - top)
    total = weights.sum(axis=-1, keepdims=True) + sink_weight
    total = np.where(total > 0, total, 1.0)
    weights, sink_weight = weights / total, sink_weight / total
    kept = np.ones_like(weights) if kept is None else kept
    out = np.einsum("bnts,bsnh->btnh", weights * kept, v_all)
    delta = np.einsum("btnh,btnh->bnt", dout, out)[..., None]
    dv_all = np.einsum("bnts,btnh->bsnh", weights * kept, dout)
    dscores = weights * (kept * np.einsum("btnh,bsnh->bnts", dout, v_all) - delta) * slope
    dq = np.einsum("bnts,bsnh->btnh", dscores, k_all) / np.sqrt(H)
    dk_all = np.einsum("bnts,btnh->bsnh", dscores, q) / np.sqrt(H)
    dk, dv = (x.reshape(*k.shape[:3], N // K, H).sum(axis=3) for x in (dk_all, dv_all))
    return out, dq, dk, dv, -(sink_weight * delta)[..., 0]


# The programs are tiny: compiling them well takes longer than running them badly.
OUT, GRADIENT = 2e-6, 5e-6  # largest error over largest value, float32


def _make(rng, B, T, N, K, H=8, ids="none", sinks=False):
    """(q, k, v, dout), segments, sinks."""
    shapes = (B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)
    arrays = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
    segments = None
    if ids == "segments":
        segments = np.minimum(1 + np.arange(T) // 13, 3).astype(np.int32)[None] + np.zeros((B, 1), np.int32)
        segments[0, T - 6 :] = 0
    if ids == "padding":
        segments = np.ones((B, T), np.int32)
        segments[:, T - 9 :] = segments[0, :4] = segments[0, 15:22] = 0
    return arrays, segments, rng.normal(size=N).astype(np.float32) if sinks else None


def _in_ring(mesh, arrays, segments, sinks, *, layout, **options):
    """(out, dq, dk, dv[, dsinks]) in natural order."""
    T, n = arrays[0].shape[1], mesh.shape["seq"]
    there = zigzag_order(T, n, options.get("stripe", 0)) if layout == "zigzag" else np.arange(T)
    back = np.argsort(there)

    def fn(q, k, v, sinks):
        ids = None if segments is None else segments[:, there]
        ordered = (x[:, there] for x in (q, k, v))
        return ring_attention(*ordered, ids, layout=layout, sinks_N=sinks, **options)[:, back]

    def both(q, k, v, dout, sinks):
        out, pull = jax.vjp(fn, q, k, v, sinks)
        return [x for x in (out, *pull(dout)) if x is not None]

    with jax.set_mesh(mesh):
        return jax.jit(both)(*arrays, sinks)


def _check(mesh, arrays, segments, sinks, *, mask, softcap=0.0, kept=None, **options):
    T = arrays[0].shape[1]
    got = _in_ring(mesh, arrays, segments, sinks, mask=mask, softcap=softcap, **options)
    seen = _visible(T, T, mask.causal, mask.frame, mask.window)[None]
    if segments is not None:
        seen = seen & _same_segment(segments, segments, mask.ordered)
    want = _attention64(*arrays, seen, softcap, sinks, kept)
    for name, x, y in zip(("out", "dq", "dk", "dv"), got, want, strict=False):
        assert _error(x, y) <= (OUT if name == "out" else GRADIENT), name
    if sinks is not None:
        # One number a head, whose terms may cancel: its error is judged by their sizes.
        error_N = np.abs(np.asarray(got[4]) - want[4].sum(axis=(0, 2)))
        assert np.all(error_N <= GRADIENT * np.abs(want[4]).sum(axis=(0, 2))), "dsinks"
    blind, unseen = ~seen.any(axis=2), ~seen.any(axis=1)
    for x, rows in zip(got, (blind, blind, unseen, unseen), strict=False):
        rows = np.broadcast_to(rows, x.shape[:2])
        assert not np.any(np.asarray(x)[rows])
