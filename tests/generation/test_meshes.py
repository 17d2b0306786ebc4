"""The same tokens from every mesh, and the logits of the full forward pass: text, vision and interleaved."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.cache import Prompt, extend, prefill
from lwm.models.transformer import LWM, TransformerConfig
from lwm.parallel.mesh import make_mesh
from lwm.parallel.sharding import shardings

# Vocabularies that "tensor" does not divide: decoding need not cut them.
MODEL = LWM(
    TransformerConfig(
        vocab_size=41,
        vision_vocab_size=23,
        width=32,
        ffn=48,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=8,
        attention_block=32,
    )
)
SOME = [pytest.param(dict(seq=8), marks=pytest.mark.slow), dict(seq=2, tensor=2)]
MATRIX = [
    dict(seq=seq, tensor=tensor) for seq in (1, 2, 4, 8) for tensor in (1, 2) if 1 < seq * tensor <= 8
] + [dict(data=3, seq=2), dict(fsdp=3, tensor=2)]
LENGTHS = {"text": 70, "vision": 3, "interleaved": 41}


def modality(kind, length, first=0):
    """Which tokens of a row are codes."""
    at = np.arange(first, first + length)
    return {"text": at < 0, "vision": at >= 0, "interleaved": at % 13 >= 5}[kind]


def prompts():
    rng = np.random.default_rng(0)
    return [
        Prompt(rng.integers(0, 23, length).astype(np.int32), modality(kind, length))
        for kind, length in LENGTHS.items()
    ]


@pytest.fixture(scope="module")
def params():
    batch = {name: np.zeros((1, 8), np.int32) for name in ("tokens", "positions", "segments")}
    params = jax.jit(MODEL.init)(jax.random.key(0), batch | {"is_vision": np.zeros((1, 8), bool)})
    return jax.tree.map(lambda w: np.asarray(w * 10 if not bool((w == 1).all()) else w), params)


@jax.jit
def greedy(params, filled, is_vision_BT):
    """(tokens_BT, text_logits_TBV, vision_logits_TBV): the likeliest token of the asked modality, T times."""

    def step(carry, is_vision_B):
        text_BV, vision_BV, cache, position_B = carry
        likeliest = [jnp.argmax(x, axis=-1).astype(jnp.int32) for x in (vision_BV, text_BV)]
        token_B = jnp.where(is_vision_B, *likeliest)
        text, vision, cache = MODEL.decode(
            params, token_B[:, None], is_vision_B[:, None], position_B[:, None], cache
        )
        return (text[:, 0], vision[:, 0], cache, position_B + 1), (token_B, text_BV, vision_BV)

    return jax.lax.scan(step, tuple(filled), is_vision_BT.T)[1]


def run(params, axes, steps):
    """(tokens_BT, text_logits_TBV, vision_logits_TBV) of a mesh."""
    count = int(np.prod([*axes.values()]))
    mesh = make_mesh(**axes, devices=jax.devices()[:count])
    wanted = np.stack([modality(kind, steps, length) for kind, length in LENGTHS.items()])
    placed = jax.device_put(params, shardings(MODEL.SERVING_RULES, params, mesh))
    with jax.set_mesh(mesh):
        filled = prefill(MODEL, placed, prompts(), room=steps, chunk=4)
        tokens_TB, text, vision = greedy(placed, filled, wanted)
    return np.asarray(tokens_TB).T, np.asarray(text), np.asarray(vision)


@pytest.fixture(scope="module")
def one_device(params):
    """`one_device(steps)`: as `run`, without a mesh, checked against the full forward pass."""

    @functools.cache
    def make(steps):
        wanted = np.stack([modality(kind, steps, length) for kind, length in LENGTHS.items()])
        filled = prefill(MODEL, params, prompts(), room=steps, chunk=64)
        tokens_TB, text, vision = (np.asarray(x) for x in greedy(params, filled, wanted))
        compare_with_forward_pass(params, tokens_TB.T, text, vision, wanted)
        return tokens_TB.T, text, vision

    return make


def compare_with_forward_pass(params, tokens_BT, text, vision, wanted_BT):
    steps = tokens_BT.shape[1]
    longest = max(LENGTHS.values()) + steps
    batch = {
        name: np.zeros((3, longest), np.int32) for name in ("tokens", "positions", "segments", "is_vision")
    }
    for row, prompt in enumerate(prompts()):
        length = len(prompt.tokens) + steps
        batch["tokens"][row, :length] = np.concatenate([prompt.tokens, tokens_BT[row]])
        batch["is_vision"][row, :length] = np.concatenate([prompt.is_vision, wanted_BT[row]])
        batch["positions"][row, :length], batch["segments"][row, :length] = np.arange(length), 1
    batch["is_vision"] = batch["is_vision"].astype(bool)
    full = jax.jit(MODEL.logits)(params, batch)
    for row, length in enumerate(LENGTHS.values()):
        for got, want in zip((text, vision), full, strict=True):
            behind = np.asarray(want)[row, length - 1 : length - 1 + steps]
            np.testing.assert_allclose(got[:, row], behind, atol=1e-4, rtol=0)
        heads = [np.argmax(np.asarray(x)[row, length - 1 : length - 1 + steps], axis=-1) for x in full]
        np.testing.assert_array_equal(tokens_BT[row], np.where(wanted_BT[row], heads[1], heads[0]))


def same_as_one_device(params, one_device, axes, steps):
    tokens, text, vision = run(params, axes, steps)
    expected_tokens, expected_text, expected_vision = one_device(steps)
    np.testing.assert_array_equal(tokens, expected_tokens)
    np.testing.assert_allclose(text, expected_text, atol=1e-4, rtol=0)
    np.testing.assert_allclose(vision, expected_vision, atol=1e-4, rtol=0)
    assert len(np.unique(tokens[0])) > 3, "a sequence that could tell one position from another"


@pytest.mark.parametrize("axes", SOME, ids=str)
def test_greedy_tokens_and_logits_do_not_depend_on_the_mesh(params, one_device, axes):
    same_as_one_device(params, one_device, axes, steps=24)


@pytest.mark.slow
@pytest.mark.parametrize("axes", MATRIX, ids=str)
def test_for_256_tokens_on_every_mesh(params, one_device, axes):
    same_as_one_device(params, one_device, axes, steps=256)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [dict(seq=2), dict(seq=4, tensor=2)], ids=str)
def test_a_second_turn_is_one_long_prompt(params, axes):
    """One that is long enough to be cut over "seq", then a short one, against everything at once."""
    rng = np.random.default_rng(1)
    count = int(np.prod([*axes.values()]))
    mesh = make_mesh(**axes, devices=jax.devices()[:count])
    turns = [
        [Prompt(rng.integers(0, 23, length).astype(np.int32), rng.random(length) < 0.5) for length in lengths]
        for lengths in ((9, 40), (64 * axes["seq"] + 3, 20), (5, 1))
    ]
    whole = [Prompt(*(np.concatenate(x) for x in zip(*row, strict=True))) for row in zip(*turns, strict=True)]
    expected = prefill(MODEL, params, whole, room=0)
    placed = jax.device_put(params, shardings(MODEL.SERVING_RULES, params, mesh))
    with jax.set_mesh(mesh):
        filled = prefill(MODEL, placed, turns[0], room=400)
        for turn in turns[1:]:
            filled = extend(MODEL, placed, filled, turn)
    assert filled.positions_B.tolist() == expected.positions_B.tolist()
    np.testing.assert_allclose(filled.text_logits_BV, expected.text_logits_BV, atol=1e-4, rtol=0)
    np.testing.assert_allclose(filled.vision_logits_BV, expected.vision_logits_BV, atol=1e-4, rtol=0)
