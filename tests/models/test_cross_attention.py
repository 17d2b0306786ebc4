"""The model with cross-attention on one device: dense reference, gates, packing, padding, who sees what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.transformer import LWM, TransformerConfig

ROW, FRAMES = 24, 10
SIZES = (0, 9, 3), (1, 8, 4), (2, 20, 5)  # seed, tokens and frames of each example


def batch_of(cross, config):
    """Two rows: one of two packed clips, one of one clip; both end in padding, of text and of frames."""
    examples = [cross.example(config, *sizes) for sizes in SIZES]
    return cross.pack(config, [examples[:2], examples[2:]], ROW, FRAMES)


@pytest.fixture(scope="module")
def case(cross):
    """The debug model: (model, batch, params, compiled step)."""
    model = cross.model()
    batch = batch_of(cross, model.config)
    return model, batch, cross.params(model, batch), cross.step(model)


def slow(*values, id):
    return pytest.param(*values, marks=pytest.mark.slow, id=id)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(dict(), id="encoder"),
        slow(
            dict(encoder_layers=0, resampler_layers=1, cross_ffn=0, media="all", recompute=False, kv_heads=1),
            id="resampled features, MQA, all media, no feed-forward",
        ),
        slow(dict(resampler_layers=2, frame_tokens=2, remat="nothing_saveable"), id="resampled frames"),
        slow(dict(encoder_layers=0, feature_width=11, frame_tokens=3, recompute=False), id="features"),
        slow(dict(encoder_layers=0, layers=4, way="rotate_keys", scan=False), id="keys, unrolled"),
        slow(dict(encoder_layers=0, key_block=4, remat="attention_saveable"), id="streamed keys"),
    ],
)
def test_equals_the_dense_reference(cross, changes):
    """Loss and gradients of every parameter."""
    model = cross.model(**changes)
    batch = batch_of(cross, model.config)
    params = cross.params(model, batch)
    loss, gradient = cross.step(model)(params, batch)
    expected, expected_gradient = cross.step(cross.dense(model))(params, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    cross.close(gradient, expected_gradient)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(expected_gradient))


def test_closed_gates_are_the_plain_decoder(cross, case):
    """At the start of training the language model is what it was, whatever it is shown; gates learn first."""
    model, batch, params, step = case
    merge = params["layers"]["cross"]["merge"]
    closed = {gate: np.zeros_like(merge[gate]) for gate in ("attention_gate", "ffn_gate")}
    layers = params["layers"] | {"cross": params["layers"]["cross"] | {"merge": merge | closed}}
    loss, gradient = step(params | {"layers": layers}, batch)
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    plain = LWM(TransformerConfig(**{name: getattr(model.config, name) for name in fields}))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params["layers"]["blocks"])
    weights = {name: params[name] for name in ("wte", "final_norm", "lm_head")} | {"layers": flat}
    expected, _ = cross.jit(plain.loss)(weights, batch, None)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    learns = gradient["layers"]["cross"]
    assert all(np.all(learns["merge"].pop(gate)) for gate in closed)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((learns, gradient["vision"])))


def test_a_new_model_has_closed_gates(case):
    model, batch, _, _ = case
    merge = jax.jit(lambda key: model.init(key, batch)["layers"]["cross"]["merge"])
    gates = jax.jit(lambda key: [merge(key)[gate] for gate in ("attention_gate", "ffn_gate")])
    assert not any(np.any(gate) for gate in gates(jax.random.key(0)))


def test_packed_clips_are_clips_alone(cross, case):
    model, _, params, step = case
    examples = [cross.example(model.config, *sizes) for sizes in ((3, 10, 4), (4, 7, 2))]
    packed = cross.pack(model.config, [examples, []], ROW, FRAMES)
    padded = cross.pack(model.config, [[example] for example in examples], ROW, FRAMES)
    cross.close(step(params, packed), step(params, padded))


def test_frames_that_are_not_there_change_nothing(cross, case):
    """Padding full of noise, and all frames in reverse: it is the numbers that say when they were."""
    _, batch, params, step = case
    noise = np.random.default_rng(5).integers(0, 256, batch["frames"].shape, dtype=np.uint8)
    frames = np.where((batch["frame_ids"] > 0)[..., None, None, None], batch["frames"], noise)
    reverse = {"frames": frames[:, ::-1], "frame_ids": batch["frame_ids"][:, ::-1]}
    cross.close(step(params, batch | reverse), step(params, batch), 2e-6)
    in_place = step(params, batch | {"frames": frames[:, ::-1]})
    assert abs(in_place[0] - step(params, batch)[0]) > 1e-4


def test_text_depends_on_the_frames_that_it_may_see_and_on_no_others(cross):
    """By gradients: position t of the nll on frame i, for two clips in a row."""
    model = cross.model(**cross.features)
    examples = [cross.example(model.config, *sizes) for sizes in ((6, 9, 4), (7, 10, 3))]
    batch = cross.pack(model.config, [examples], ROW, FRAMES)
    params = cross.params(model, batch)

    def nll_T(features):
        return model.nll(params, batch | {"features": features})[0]

    jacobian_TI = np.abs(cross.jit(jax.jacrev(nll_T))(batch["features"])[:, 0]).sum(axis=(-2, -1))
    media_T, ids_I = batch["media"][0], batch["frame_ids"][0]
    may_TI = (ids_I > 0) & (ids_I <= media_T[:, None]) & (ids_I >> 16 == media_T[:, None] >> 16)
    may_TI &= batch["segments"][0][:, None] > 0
    assert np.all(jacobian_TI[~may_TI] == 0)
    assert np.all(jacobian_TI[may_TI] > 0)
    assert not may_TI[0].all() and may_TI.any(axis=0)[:6].all()


@pytest.mark.slow
def test_bfloat16_computes_with_float32_parameters(cross, case):
    _, batch, params, step = case
    loss, gradient = cross.step(cross.model(dtype="bfloat16"))(params, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, gradient))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(loss, step(params, batch)[0], rtol=0.02)
    assert float(loss) != float(step(params, batch)[0])


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(frames=None), "batch: has no 'frames'"),
        (dict(media=None), "batch: has no 'media'"),
        (dict(media=np.zeros((2, 3), np.int32)), r"media: shape \(2, 3\); needs \(2, 24\)"),
        (
            dict(frame_ids=np.zeros((2, 0), np.int32), frames=np.zeros((2, 0, 8, 8, 3), np.uint8)),
            "one or more",
        ),
        (dict(frame_ids=np.zeros((2, 3), np.int32)), r"frame_ids: shape \(2, 3\) for frames \(2, 10"),
        (dict(frames=np.zeros((2, 10, 8, 8, 3), np.float32)), r"frames: float32 .* needs \[B, I, 8, 8, 3\]"),
        (dict(frames=np.zeros((2, 10, 9, 9, 3), np.uint8)), r"frames: uint8 \(2, 10, 9, 9, 3\)"),
    ],
)
def test_batches_that_do_not_fit(cross, change, words):
    model = cross.model()
    batch = batch_of(cross, model.config) | change
    batch = {name: x for name, x in batch.items() if x is not None}
    for read in (lambda: model.loss({}, batch, None), lambda: model.init(jax.random.key(0), batch)):
        with pytest.raises(ValueError, match=words) as error:
            read()
        assert "\n" not in str(error.value)


def test_features_that_do_not_fit(cross):
    model = cross.model(**cross.features)
    batch = batch_of(cross, model.config)
    for shape in ((2, FRAMES, 4, 16), (2, FRAMES, 3, 11)):
        with pytest.raises(ValueError, match=r"features: float32 .* needs \[B, I, 3, 16\]"):
            model.loss({}, batch | {"features": np.zeros(shape, np.float32)}, None)
