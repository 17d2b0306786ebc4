"""Decoding with a cache gives the logits of the whole sequence, however it is fed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.transformer import LWM, TransformerConfig

MODEL = LWM(
    TransformerConfig(
        vocab_size=40,
        vision_vocab_size=24,
        width=16,
        ffn=32,
        layers=3,
        heads=4,
        kv_heads=2,
        head_dim=8,
        rope_theta=1000.0,
        remat="nothing_saveable",
        attention_block=8,
    )
)
LENGTH, SLOTS = 12, 20
_rng = np.random.default_rng(0)
TOKENS = _rng.integers(0, 24, (2, LENGTH)).astype(np.int32)
IS_VISION = _rng.random((2, LENGTH)) < 0.5
POSITIONS = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))

decode = jax.jit(MODEL.decode)


@pytest.fixture(scope="module")
def params():
    batch = dict(tokens=TOKENS, is_vision=IS_VISION, positions=POSITIONS, segments=np.ones_like(TOKENS))
    params = jax.jit(MODEL.init)(jax.random.key(0), batch)
    return jax.tree.map(lambda p: p if bool((p == 1).all()) else 10 * p, params)


@pytest.fixture(scope="module")
def whole(params):
    batch = dict(tokens=TOKENS, is_vision=IS_VISION, positions=POSITIONS, segments=np.ones_like(TOKENS))
    return jax.jit(MODEL.logits)(params, batch)


def _feed(params, cache, columns, tokens=TOKENS, is_vision=IS_VISION, positions=POSITIONS):
    """Decodes the given column slices one after another; logits of both heads along T, and the cache."""
    text, vision = [], []
    for part in columns:
        text_BTV, vision_BTV, cache = decode(
            params, tokens[:, part], is_vision[:, part], positions[:, part], cache
        )
        text.append(text_BTV)
        vision.append(vision_BTV)
    return jnp.concatenate(text, axis=1), jnp.concatenate(vision, axis=1), cache


@pytest.mark.parametrize("step", [1, 4, LENGTH])
def test_cached_is_whole(params, whole, step):
    columns = [slice(start, start + step) for start in range(0, LENGTH, step)]
    text_BTV, vision_BTV, cache = _feed(params, MODEL.init_cache(2, SLOTS), columns)
    np.testing.assert_allclose(text_BTV, whole[0], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(vision_BTV, whole[1], atol=1e-5, rtol=1e-5)
    assert int(cache.length) == LENGTH
    np.testing.assert_array_equal(cache.positions_BS[:, :LENGTH], POSITIONS)
    assert np.all(np.asarray(cache.positions_BS[:, LENGTH:]) == -1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_unequal_prompts_share_a_batch(params, whole, side):
    """Row 1 has a prompt of 5 tokens padded to 8; both rows then go on token by token."""
    prompt, short = 8, 5
    pad = slice(0, prompt - short) if side == "left" else slice(short, prompt)
    real = slice(prompt - short, prompt) if side == "left" else slice(0, short)
    tokens, is_vision, positions = TOKENS.copy(), IS_VISION.copy(), POSITIONS.copy()
    tokens[1, real], is_vision[1, real], positions[1, real] = (
        TOKENS[1, :short],
        IS_VISION[1, :short],
        np.arange(short),
    )
    tokens[1, pad], positions[1, pad] = 7, -1
    rest = slice(short, short + LENGTH - prompt)
    tokens[1, prompt:], is_vision[1, prompt:] = TOKENS[1, rest], IS_VISION[1, rest]
    positions[1, prompt:] = np.arange(rest.start, rest.stop)
    columns = [slice(0, 4), slice(4, 8)] + [slice(t, t + 1) for t in range(prompt, LENGTH)]
    text_BTV, vision_BTV, _ = _feed(params, MODEL.init_cache(2, SLOTS), columns, tokens, is_vision, positions)
    for got, expected in ((text_BTV, whole[0]), (vision_BTV, whole[1])):
        np.testing.assert_allclose(got[0], expected[0], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(got[1, real], expected[1, :short], atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(got[1, prompt:], expected[1, rest], atol=1e-5, rtol=1e-5)
        assert np.all(np.isfinite(got))
