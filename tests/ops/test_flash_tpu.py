"""The TPU kernels, interpreted on a CPU, against attention with all scores at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops import flash_tpu
from lwm.ops.dropout import Dropout
from lwm.ops.masks import EVERYTHING, Mask

H = 64


def dense(q, k, v, q_segments, k_segments, *, mask, q_start=0, k_start=0, softcap=0.0, dropout=None):
    """(out, lse) with all scores at once, float32 in full precision."""
    (B, T, N, _), (S, K) = q.shape, k.shape[1:3]
    k, v = (jnp.repeat(x.astype(jnp.float32), N // K, axis=2) for x in (k, v))
    scores = jnp.einsum("BTNH,BSNH->BNTS", q.astype(jnp.float32), k) * q.shape[-1] ** -0.5
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    q_positions, k_positions = q_start + jnp.arange(T), k_start + jnp.arange(S)
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


CASES = {
    "causal, MHA": dict(mask=Mask(), N=2, K=2),
    "causal, GQA, segments": dict(mask=Mask(), N=4, K=2, B=2, segments=True),
    "full, MQA, soft cap, ragged": dict(mask=EVERYTHING, N=3, K=1, T=200, S=300, softcap=5.0),
    "full, segments, ragged": dict(mask=EVERYTHING, T=130, S=260, B=2, segments=True),
    "frames, offsets": dict(mask=Mask(frame=48), N=2, K=1, T=256, S=384, q_start=96, k_start=17),
    "window, some rows see nothing": dict(mask=Mask(window=40), T=384, S=384, q_start=300, k_start=100),
    "window, frames, segments": dict(mask=Mask(window=150, frame=7), T=384, S=384, segments=True, N=2),
    "ordered": dict(mask=Mask(causal=False, ordered=True), T=256, S=384, N=4, K=2, segments=True),
    "keys come later": dict(mask=Mask(), q_start=0, k_start=1000),
    "dropout, GQA, segments": dict(mask=Mask(), N=4, K=2, B=2, segments=True, dropout=0.3, softcap=9.0),
    "head size 128, bfloat16": dict(mask=Mask(), N=2, K=1, size=128, dtype=jnp.bfloat16),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    case = dict(B=1, T=256, S=256, N=1, K=1, size=H, dtype=jnp.float32, segments=False, dropout=0.0)
    case |= CASES[name]
    B, T, S = case["B"], case["T"], case["S"]
    q, k, v, dout = inputs(B, T, S, case["N"], case["K"], case["dtype"], case["size"])
    segments = (packed(B, T, 1), packed(B, S, 2)) if case["segments"] else (None, None)
    if case["segments"] and T == S:
        segments = segments[0], segments[0]
    options = {name: case[name] for name in ("mask", "q_start", "k_start", "softcap") if name in case}
    if case["dropout"]:
        options["dropout"] = Dropout(case["dropout"], jnp.uint32(7), row=3, head=5)
    (out, lse), pull = jax.vjp(lambda q, k, v: dense(q, k, v, *segments, **options), q, k, v)
    expected = pull((dout.astype(jnp.float32), jnp.zeros_like(lse)))

    got, got_lse = flash_tpu.attend_block(q, k, v, *segments, block=128, interpret=True, **options)
    delta = jnp.sum(dout.astype(jnp.float32) * out, axis=-1)
    grads = flash_tpu.attend_block_grad(
        q, k, v, *segments, dout, lse, delta, block=128, interpret=True, **options
    )
    tolerance = 2e-6 if case["dtype"] == jnp.float32 else 1e-2
    empty = np.asarray(lse) == -np.inf
    assert np.array_equal(np.asarray(got_lse) == -np.inf, empty)
    close(np.where(empty, 0, got_lse), np.where(empty, 0, lse), 2e-6)
    assert not np.any(np.asarray(got)[empty]) and not np.any(np.asarray(grads[0])[empty])
    for ours, theirs in zip((got, *grads), (out, *expected), strict=True):
        assert ours.dtype == jnp.float32
        close(ours, theirs.astype(jnp.float32), tolerance)


def close(a, b, tolerance):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert np.all(np.isfinite(a))
    assert np.linalg.norm(a - b) <= tolerance * max(np.linalg.norm(b), 1e-9)
