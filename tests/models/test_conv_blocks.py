"""Steps and blocks of convolutions against their formulas; what is behind a position stays there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.attention_block import AttentionBlock, Stream, timing
from lwm.models.conv_blocks import STEPS, ConvBlock, ConvStep
from lwm.models.multimodel_sizes import SIZES, MultiModelConfig

B, T, S, D = 2, 9, 6, 16
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, T, D)).astype(np.float32)
SOURCE = Stream(RNG.normal(size=(B, S, D)).astype(np.float32), np.arange(S) < np.array([[S], [4]]))


def config(**changes):
    return MultiModelConfig(**SIZES["debug"] | {"dropout": 0.0} | changes)


def params_of(module, *inputs):
    """Random weights, norms included."""
    shapes = jax.eval_shape(functools.partial(module.init, jax.random.key(0)), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: 0.5 * rng.normal(size=leaf.shape).astype(np.float32), shapes)


def slow_step(params, x, taps, dilation, causal=False, valid=None):
    h = np.maximum(x, 0) * (1 if valid is None else valid[..., None])
    reach = (taps - 1) * dilation
    left = reach if causal else reach // 2
    out = np.zeros_like(x)
    for t in range(x.shape[1]):
        for i in range(taps):
            s = t - left + i * dilation
            if 0 <= s < x.shape[1]:
                out[:, t] += params["taps"][i] * h[:, s]
    out = out @ params["pointwise"]
    out = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + 1e-6)
    return out * params["norm"]["scale"] + params["norm"]["bias"]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (3, 1), (5, 4), (15, 8)])
def test_a_step_is_its_formula(taps, dilation, causal):
    step, valid = ConvStep(config(), taps, dilation, causal), RNG.random((B, T)) < 0.7
    params = params_of(step, X, valid)
    out, _ = step.apply(params, X, valid)
    np.testing.assert_allclose(out, slow_step(params["params"], X, taps, dilation, causal, valid), atol=1e-4)


def test_blocks_are_wired_as_in_the_paper_or_as_in_the_code():
    for wiring in STEPS:
        block = ConvBlock(config(wiring=wiring))
        params = params_of(block, X)

        def step(index, x, params=params["params"], wiring=wiring):
            return slow_step(params[f"step_{index + 1}"], x, *STEPS[wiring][index])

        if wiring == "paper":
            h = X + step(1, step(0, X))
            expected = X + step(3, step(2, h))
        else:
            y = step(1, step(0, X))
            expected = X + y + step(3, step(2, X + y))
        np.testing.assert_allclose(block.apply(params, X)[0], expected, atol=1e-4)


def test_without_convolution_positions_do_not_meet():
    block = ConvBlock(config(without="convolution"))
    params = params_of(block, X)
    jacobian = jax.jacobian(lambda x: jnp.sum(block.apply(params, x)[0], axis=-1))(X)
    t = np.arange(T)
    assert not np.any(np.asarray(jacobian)[0, :, 0][t[:, None] != t])


def of_attention(**changes):
    block = AttentionBlock(config(**changes))
    params = params_of(block, X, SOURCE)
    return lambda x, source=SOURCE: block.apply(params, x, source)[0]


def of_convolution(**changes):
    block = ConvBlock(config(**changes), causal=True)
    params = params_of(block, X)
    return lambda x: block.apply(params, x)[0]


@pytest.mark.parametrize("wiring", STEPS)
@pytest.mark.parametrize("make", [of_convolution, of_attention])
def test_nothing_comes_from_the_future(make, wiring):
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(make(wiring=wiring)(x)[:, :4])))(X)
    assert not np.any(gradient[:, 4:]) and np.all(np.any(gradient[:, :4], axis=-1))


def test_attention_reads_the_source_but_not_its_padding():
    out, padded = of_attention(), SOURCE.valid_BT[1] == 0
    gradient = jax.grad(lambda y: jnp.sum(jnp.sin(out(X, SOURCE._replace(x_BTD=y)))))(SOURCE.x_BTD)
    assert not np.any(gradient[1][padded]) and np.all(np.any(gradient[1][~padded], axis=-1))


def test_without_attention_the_source_is_its_mean():
    """Values that change places change nothing; with attention they do."""
    turned = SOURCE._replace(x_BTD=SOURCE.x_BTD[:, [1, 0, 3, 2, 4, 5]])
    for without, same in (("attention", True), ("", False)):
        out = of_attention(without=without)
        assert np.allclose(out(X), out(X, turned), atol=1e-5) == same


@pytest.mark.parametrize("wiring", STEPS)
def test_a_causal_block_goes_on_from_its_histories(wiring):
    block = ConvBlock(config(wiring=wiring), causal=True)
    params = params_of(block, X)
    expected, _ = block.apply(params, X)
    parts, histories = [], (None,) * 4
    for start, stop in ((0, 3), (3, 4), (4, T)):
        part, histories = block.apply(params, X[:, start:stop], None, histories)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, atol=1e-5)


def test_dropout_needs_a_key():
    block = ConvBlock(config(dropout=0.5))
    params = params_of(block, X)
    rngs = {"dropout": jax.random.key(0)}
    assert np.mean(np.asarray(block.apply(params, X, rngs=rngs)[0]) == 0) > 0.3
    assert np.mean(np.asarray(block.apply(params, X)[0]) == 0) == 0


def test_the_timing_signal_is_that_of_the_paper():
    found = timing(jnp.arange(5), D)
    for t, d in np.ndindex(5, D):
        angle = t * 10_000 ** (-2 * (d // 2) / D)
        np.testing.assert_allclose(found[t, d], np.cos(angle) if d % 2 else np.sin(angle), atol=1e-5)
