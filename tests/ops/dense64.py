"""Attention and its gradients in float64 with NumPy, all scores at once and by the textbook's formulas."""

import numpy as np


def visible(T, S, causal=True, frame=1, window=0, q_first=0, k_first=0):
    """bool[T, S], pair by pair from the definition."""
    seen = np.zeros((T, S), bool)
    for i in range(T):
        for j in range(S):
            q, k = q_first + i, k_first + j
            seen[i, j] = (not causal or k // frame <= q // frame) and (not window or q - k < window)
    return seen


def same_segment(q_segments, k_segments, ordered=False):
    """bool[B, T, S]."""
    q, k = q_segments[:, :, None], k_segments[:, None, :]
    return (k > 0) & ((k <= q) if ordered else (k == q))


def attention64(q, k, v, dout, seen, softcap=0.0, sinks=None, kept=None):
    """(out, dq, dk, dv, dsinks) in float64.

    q, dout are [B, T, N, H]; k, v are [B, S, K, H]; seen is bool [B or 1, T, S]; kept, [B, N, T, S], multiplies
    the weights (dropout).
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
    return out, dq, dk, dv, -np.sum(sink_weight * delta, axis=(0, 2, 3))
