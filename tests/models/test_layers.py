"""Layers against their formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lwm.models.layers import Attention, Embedding, FeedForward, Head, RMSNorm


def _random(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_rms_norm_computes_in_float32():
    x = (1000 * _random(3, 8)).astype(jnp.bfloat16)
    out = RMSNorm(eps=1e-6).apply({"params": {"scale": jnp.full(8, 2.0)}}, x)
    x64 = np.asarray(x, np.float64)
    expected = 2 * x64 / np.sqrt(np.mean(x64**2, axis=-1, keepdims=True) + 1e-6)
    assert out.dtype == jnp.bfloat16
    # Half a unit in the last of bfloat16's 8 bits: only the final rounding is lost.
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=2**-8)


def test_feed_forward_is_swiglu_whole_and_in_chunks():
    x_BTD = _random(2, 8, 4)
    params = FeedForward(6, chunk=0, dtype=jnp.float32).init(jax.random.key(1), x_BTD)["params"]
    w1, w2, w3 = (np.asarray(params[name], np.float64) for name in ("w1", "w2", "w3"))
    x = np.asarray(x_BTD, np.float64)
    gate = x @ w1
    expected = (gate / (1 + np.exp(-gate)) * (x @ w3)) @ w2
    for chunk in (0, 4):
        out = FeedForward(6, chunk=chunk, dtype=jnp.float32).apply({"params": params}, x_BTD)
        np.testing.assert_allclose(out, expected, atol=1e-6)


def test_attention_is_causal_grouped_and_rotary():
    B, T, D, N, K, H = 1, 6, 8, 4, 2, 4
    x_BTD = 10 * _random(B, T, D)
    positions_BT = jnp.array([[0, 1, 2, 0, 1, 2]])
    segments_BT = jnp.array([[1, 1, 1, 2, 2, 2]])
    attention = Attention(N, K, H, rope_theta=100.0, block=2, dtype=jnp.float32)
    variables = attention.init(jax.random.key(1), x_BTD, positions_BT, segments_BT)
    variables = jax.tree.map(lambda w: 10 * w, variables)
    out_BTD, _ = attention.apply(variables, x_BTD, positions_BT, segments_BT)

    w = {name: np.asarray(value, np.float64) for name, value in variables["params"].items()}
    x = np.asarray(x_BTD[0], np.float64)

    def turned(x_TH):
        angle_TH = np.asarray(positions_BT)[0][:, None] * 100.0 ** (-2 * np.arange(H // 2) / H)
        z_TH = (x_TH[:, 0::2] + 1j * x_TH[:, 1::2]) * np.exp(1j * angle_TH)
        return np.stack([z_TH.real, z_TH.imag], axis=-1).reshape(x_TH.shape)

    heads = []
    for n in range(N):
        k = n // (N // K)
        q_TH = turned((x @ w["wq"])[:, n * H : (n + 1) * H])
        k_TH = turned((x @ w["wk"])[:, k * H : (k + 1) * H])
        v_TH = (x @ w["wv"])[:, k * H : (k + 1) * H]
        seen = np.tril(np.ones((T, T), bool)) & (segments_BT[0][:, None] == segments_BT[0])
        p = np.where(seen, np.exp(q_TH @ k_TH.T / np.sqrt(H)), 0)
        heads.append(p / p.sum(-1, keepdims=True) @ v_TH)
    np.testing.assert_allclose(out_BTD[0], np.concatenate(heads, axis=-1) @ w["wo"], atol=1e-4, rtol=1e-4)


def test_embedding_reads_row_0_for_ids_of_the_other_modality():
    embedding = Embedding(5, 3, jnp.float32)
    table = _random(5, 3)
    rows = embedding.apply({"params": {"embedding": table}}, jnp.array([[4, 5, -1, 0]]))
    np.testing.assert_array_equal(rows[0], table[np.array([4, 0, 0, 0])])


def test_head_likelihood_is_that_of_its_logits():
    head = Head(vocab_size=7, width=4, dtype=jnp.float32, chunk=2)
    x_BTD, targets_BT = _random(2, 4, 4), jnp.array([[0, 6, 3, 1], [2, 2, 5, 99]])
    variables = {"params": {"kernel": _random(4, 7, seed=1)}}
    logits_BTV = head.apply(variables, x_BTD)
    nll_BT = head.apply(variables, x_BTD, targets_BT, method="nll")
    inside_BT = jnp.where(targets_BT < 7, targets_BT, 0)
    expected_BT = -jnp.take_along_axis(nn.log_softmax(logits_BTV), inside_BT[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(nll_BT, expected_BT, atol=1e-5)
