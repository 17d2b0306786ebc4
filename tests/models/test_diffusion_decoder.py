"""The diffusion decoder on one device and on several: its loss, dropped conditions, samples, bad input."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.diffusion_decoder import SIZES, DecoderConfig, DiffusionDecoder
from lwm.ops import diffusion
from lwm.parallel.sharding import batch_shardings, shardings

B, S = 8, 5


def model_of(**changes):
    return DiffusionDecoder(DecoderConfig(**SIZES["debug"] | changes))


MODEL = model_of(drop_rate=0.5, unconditional_length=2)


def batch_of():
    rng = np.random.default_rng(0)
    segments = np.ones((B, S), np.int32)
    segments[1, 3:] = segments[5, 1:] = 0
    return {
        "images": rng.integers(0, 256, (B, 8, 8, 3), dtype=np.uint8),
        "tokens": rng.integers(1, 16, (B, S)).astype(np.int32),
        "segments": segments,
        "image_weights": np.array([1, 1, 0, 1, 1, 1, 1, 0], np.float32),
    }


@functools.cache
def params_of(model):
    """Random numbers, none of them 0, without the time that compiling `init` takes."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0), {})

    def draw(leaf):
        return rng.normal(0, max(math.prod(leaf.shape[:-1]), 9) ** -0.5, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


@functools.cache
def step_of(model):
    return jax.jit(jax.value_and_grad(model.loss, has_aux=True))


@pytest.fixture(scope="module")
def alone():
    """Loss, metrics and gradient of the batch on one device."""
    return jax.device_get(step_of(MODEL)(params_of(MODEL), batch_of(), jax.random.key(3)))


def test_gradients_reach_everything(alone):
    (loss, metrics), gradient = alone
    assert loss > 0 and metrics["denominator"] == 6
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.any(leaf) or "places" in str(path), jax.tree_util.keystr(path)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [dict(data=2, fsdp=2, tensor=2)], ids=str)
def test_a_step_on_a_mesh_is_that_of_one_device(axes, mesh_of, alone):
    mesh = mesh_of(**axes)
    with jax.set_mesh(mesh):
        params = jax.device_put(params_of(MODEL), shardings(MODEL.PARTITION_RULES, params_of(MODEL), mesh))
        batch = jax.device_put(batch_of(), batch_shardings(batch_of(), mesh))
        (loss, metrics), gradient = jax.device_get(step_of(MODEL)(params, batch, jax.random.key(3)))
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    close(loss, alone[0][0])
    jax.tree.map(close, metrics, alone[0][1])
    jax.tree.map(close, gradient, alone[1])


class Stub(DiffusionDecoder):
    """With a network of one line: x, plus what is there of the condition and the number of the time."""

    def _denoise(self, params, x_BHWC, times_B, condition):
        seen_B = jnp.sum(jnp.where(condition.there_BS, jnp.mean(condition.vectors_BSC, axis=2), 0), axis=1)
        return 0.1 * x_BHWC + (seen_B + times_B / 1000)[:, None, None, None]


@pytest.fixture(scope="module")
def vectors():
    """A stub for latents without a text encoder and without a learned unconditional sequence."""
    changes = {"text_vocab_size": 0, "unconditional_length": 0, "latents": True, "drop_rate": 0.5}
    return Stub(DecoderConfig(**SIZES["debug"] | changes))


def test_the_loss_is_that_of_the_examples_that_weigh(vectors):
    """By hand from the same draws: half the conditions dropped, two of eight latents missing."""
    rng, key = np.random.default_rng(0), jax.random.key(3)
    batch = batch_of() | {"latents": rng.normal(size=(B, 8, 8, 3)).astype(np.float32)}
    batch |= {"condition": rng.normal(size=(B, S, 8)).astype(np.float32)}
    batch |= {"unconditional": rng.normal(size=(7, 8)).astype(np.float32)}
    run = jax.jit(vectors.loss)
    loss, metrics = run({}, batch, key)
    drop_key, noise_key = jax.random.split(key)
    dropped = np.asarray(jax.random.bernoulli(drop_key, 0.5, (B,)))
    assert 0 < dropped.sum() < B
    x0, noised = batch["latents"], diffusion.draw_noised(noise_key, batch["latents"], vectors.schedule)
    seen = np.sum(batch["condition"].mean(axis=2) * (batch["segments"] > 0), axis=1)
    seen = np.where(dropped, batch["unconditional"].mean(axis=1).sum(), seen) + noised.times_B / 1000
    predicted = 0.1 * noised.x + seen[:, None, None, None]
    a, s = (table[noised.times_B][:, None, None, None] for table in vectors.schedule)
    error = np.mean((predicted - (a * noised.noise - s * x0)) ** 2, axis=(1, 2, 3))
    ratio, counts = (a / s).ravel() ** 2, batch["image_weights"] > 0
    np.testing.assert_allclose(loss, np.mean((error * np.minimum(ratio, 5) / (ratio + 1))[counts]), rtol=1e-4)
    np.testing.assert_allclose(metrics["denoising"], np.mean(error[counts]), rtol=1e-4)
    assert metrics["denominator"] == counts.sum()
    nothing, metrics = run({}, batch | {"image_weights": np.zeros(B, np.float32)}, key)
    assert nothing == 0 and metrics["denominator"] == 0


def test_samples_follow_the_condition_and_guidance(vectors):
    """At guidance 1 nothing else matters, at 0 the condition does not, above 1 both do."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 2, 3, 8)).astype(np.float32)
    without = rng.normal(size=(5, 8)).astype(np.float32)

    def make(condition, guidance, unconditional):
        x = vectors.sample({}, condition, jax.random.key(0), 3, guidance, unconditional=unconditional)
        assert x.shape == (2, 8, 8, 3) and x.dtype == jnp.float32
        return np.asarray(x)

    plain, guided = make(one, 1.0, None), make(one, 3.0, without)
    assert np.abs(guided - plain).max() > 1e-3
    assert np.abs(make(other, 3.0, without) - guided).max() > 1e-3
    np.testing.assert_allclose(make(one, 0.0, without), make(other, 0.0, without), atol=1e-4)
    np.testing.assert_allclose(make(one, 2.0, one), plain, atol=1e-4)


@pytest.mark.parametrize(("method", "eta"), [("dpm", 0.0), ("ddim", 1.0)])
def test_step_by_step_it_is_the_same_sample(vectors, method, eta):
    one = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)), jnp.float32)
    condition = vectors.condition({}, one)
    how = {"steps": 3, "guidance": 2.0, "unconditional": -one[:1, :2], "method": method, "eta": eta}
    states = list(vectors.each_step({}, condition, jax.random.key(0), **how))
    assert len(states) == 3 and np.any(states[0] != states[1])
    np.testing.assert_allclose(states[-1], vectors.sample({}, condition, jax.random.key(0), **how), atol=1e-5)


@pytest.mark.slow
def test_a_picture_is_sampled_from_text(mesh_of):
    """Pixels from ids; one row also on a mesh that would cut it."""
    params, tokens = params_of(MODEL), batch_of()["tokens"][:1]
    arguments = params, tokens, jax.random.key(0), 2, 2.0
    picture = MODEL.sample(*arguments, method="ddim", eta=1.0)
    assert picture.shape == (1, 8, 8, 3) and picture.dtype == jnp.uint8 and len(np.unique(picture)) > 10
    with jax.set_mesh(mesh_of(data=4, tensor=2)):
        shape = jax.eval_shape(lambda: MODEL.sample(*arguments, method="ddim", eta=1.0))
    assert shape.shape == picture.shape


def batch_without(*names, **others):
    return {name: x for name, x in batch_of().items() if name not in names} | others


@pytest.mark.parametrize(
    "call, words",
    [
        (
            lambda p, m: MODEL.sample(p, batch_of()["tokens"], None, steps=0),
            "steps: 0; a whole number from 1",
        ),
        (lambda p, m: MODEL.sample(p, batch_of()["tokens"], None, guidance=-1), "guidance: -1; 0"),
        (lambda p, m: MODEL.sample(p, batch_of()["tokens"], None, method="x"), "method: 'x'; one of"),
        (
            lambda p, m: MODEL.condition(p, np.ones((1, 9), int)),
            "tokens: 9 positions; at most text_length = 8",
        ),
        (lambda p, m: MODEL.condition(p, np.ones((1, 3, 9))), r"condition: shape .*; needs \[B, S, 8\]"),
        (lambda p, m: MODEL.condition(p, np.ones((1, 3), int), np.ones((1, 4))), "segments: shape"),
        (lambda p, m: m.condition(p, np.ones((1, 3), int)), "tokens: this model has no text encoder"),
        (lambda p, m: m.loss(p, batch_of(), None), "batch: has no 'condition', from"),
        (lambda p, m: MODEL.loss(p, batch_without("tokens"), None), "batch: has no 'condition' or 'tokens'"),
        (lambda p, m: MODEL.loss(p, batch_without("images"), None), "batch: has no 'images'"),
        (lambda p, m: MODEL.pictures({"images": np.ones((1, 8, 8, 3))}), "images: float64 .*; needs uint8"),
        (
            lambda p, m: m.sample({}, jnp.ones((1, 2, 8)), jax.random.key(0), 1, 2.0),
            "unconditional: None, and none is learned",
        ),
    ],
)
def test_bad_arguments_in_one_line(call, words, vectors):
    with pytest.raises(ValueError, match=words) as error:
        call(params_of(MODEL), vectors)
    assert "\n" not in str(error.value)
