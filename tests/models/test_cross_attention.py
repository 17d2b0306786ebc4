"""The model with cross-attention on one device: dense reference, gates, packing, padding, who sees what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.transformer import LWM, TransformerConfig

ROW, FRAMES = 24, 7


def batch_of(cross, config, *, row=ROW, frames=FRAMES):
    """Two rows: one of two packed clips, one of one clip; both end in padding."""
    examples = [cross.example(config, *sizes) for sizes in ((0, 9, 3), (1, 8, 4), (2, 20, 5))]
    return cross.pack(config, [examples[:2], examples[2:]], row, frames)


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(recompute=False, media="all", cross_ffn=0, encoder_layers=0, feature_width=11, frame_tokens=3),
        dict(resampler_layers=2, frame_tokens=2, remat="nothing_saveable", recompute=True, kv_heads=1),
        dict(encoder_layers=0, resampler_layers=1, frame_tokens=4, way="rotate_keys", scan=False),
        dict(encoder_layers=0, feature_width=12, frame_tokens=3, key_block=4, remat="attention_saveable"),
    ],
    ids=["encoder", "features, all media", "resampler, MQA", "resampled features", "streamed keys"],
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


def test_closed_gates_are_the_plain_decoder(cross):
    """At the start of training the language model is what it was, whatever it is shown."""
    model = cross.model(**cross.features)
    batch = batch_of(cross, model.config)
    params = cross.params(model, batch)
    for gate in ("attention_gate", "ffn_gate"):
        params["layers"]["cross"]["merge"][gate] = np.zeros(model.config.cross_layers, np.float32)
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    plain = LWM(TransformerConfig(**{name: getattr(model.config, name) for name in fields}))
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), params["layers"]["blocks"])
    logits, _ = cross.jit(plain.logits)({name: params[name] for name in TABLES} | {"layers": flat}, batch)
    np.testing.assert_array_equal(cross.jit(model.logits)(params, batch)[0], logits)


TABLES = ("wte", "final_norm", "lm_head")


def test_a_new_model_has_closed_gates_and_they_alone_learn_first(cross):
    model = cross.model(**cross.features)
    batch = batch_of(cross, model.config)
    params = cross.jit(model.init)(jax.random.key(0), batch)
    gradient = cross.step(model)(params, batch)[1]["layers"]["cross"]
    assert not any(
        np.any(params["layers"]["cross"]["merge"][f"{kind}_gate"]) for kind in ("attention", "ffn")
    )
    merge = gradient["merge"]
    assert np.all(merge.pop("attention_gate")) and np.all(merge.pop("ffn_gate"))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_packed_clips_are_clips_alone(cross):
    model = cross.model()
    examples = [cross.example(model.config, *sizes) for sizes in ((3, 10, 4), (4, 7, 2))]
    packed = cross.pack(model.config, [examples], ROW, FRAMES)
    padded = cross.pack(model.config, [[example] for example in examples], ROW, FRAMES)
    params, step = cross.params(model, packed), cross.step(model)
    cross.close(step(params, packed), step(params, padded))


def test_frames_that_are_not_there_change_nothing(cross):
    """Three more of them, full of noise; and the others in reverse: their numbers say when they were."""
    model = cross.model()
    batch, rng = batch_of(cross, model.config), np.random.default_rng(5)
    params, step = cross.params(model, batch), cross.step(model)
    there = batch["frame_ids"] > 0
    noise = rng.integers(0, 256, batch["frames"].shape, dtype=np.uint8)
    frames = np.where(there[..., None, None, None], batch["frames"], noise)
    more = batch | {
        "frames": np.concatenate([frames, noise[:, :3]], axis=1)[:, ::-1],
        "frame_ids": np.pad(batch["frame_ids"], ((0, 0), (0, 3)))[:, ::-1],
    }
    cross.close(step(params, more), step(params, batch), 2e-6)


def test_text_depends_on_the_frames_that_it_may_see_and_on_no_others(cross):
    """By gradients: position t of the nll on frame i, for two clips in a row."""
    model = cross.model(**cross.features)
    examples = [cross.example(model.config, *sizes) for sizes in ((6, 9, 4), (7, 10, 3))]
    batch = cross.pack(model.config, [examples], ROW, FRAMES + 1)
    params = cross.params(model, batch)

    def nll_T(features):
        return model.nll(params, batch | {"features": features})[0]

    jacobian_TI = np.abs(cross.jit(jax.jacrev(nll_T))(batch["features"])[:, 0]).sum(axis=(-2, -1))
    media_T, ids_I = batch["media"][0], batch["frame_ids"][0]
    may_TI = (ids_I > 0) & (ids_I <= media_T[:, None]) & (ids_I >> 16 == media_T[:, None] >> 16)
    may_TI &= batch["segments"][0][:, None] > 0
    assert np.all(jacobian_TI[~may_TI] == 0)
    assert np.all(jacobian_TI[may_TI] > 0)
    assert not may_TI[0].all() and may_TI.any(axis=0)[:-1].all()


def test_the_number_of_a_frame_matters(cross):
    """Two frames that change places are another video, also to text that sees both."""
    model = cross.model(**cross.features, media="all")
    batch = cross.pack(model.config, [[cross.example(model.config, 8, 12, 4)]], ROW, 4)
    params, forward = cross.params(model, batch), cross.jit(model.nll)
    turned = batch | {"features": batch["features"][:, [1, 0, 2, 3]]}
    assert np.max(np.abs(forward(params, turned) - forward(params, batch))) > 1e-3


def test_bfloat16_computes_with_float32_parameters(cross):
    model = cross.model(dtype="bfloat16")
    batch = batch_of(cross, model.config)
    params = cross.params(cross.model(), batch)
    loss, gradient = cross.step(model)(params, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves((loss, gradient))} == {jnp.dtype(jnp.float32)}
    expected = cross.step(cross.model())(params, batch)[0]
    np.testing.assert_allclose(loss, expected, rtol=0.02)
    assert float(loss) != float(expected)


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
        (dict(frame_ids=np.zeros((2, 3), np.int32)), r"frame_ids: \(2, 3\)"),
        (dict(frames=np.zeros((2, 7, 8, 8, 3), np.float32)), r"frames: float32 .* needs \[B, I, 8, 8, 3\]"),
        (dict(frames=np.zeros((2, 7, 9, 9, 3), np.uint8)), r"frames: uint8 \(2, 7, 9, 9, 3\)"),
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
    for shape in ((2, FRAMES, 4, 12), (2, FRAMES, 3, 11)):
        with pytest.raises(ValueError, match=r"features: float32 .* needs \[B, I, 3, 12\]"):
            model.loss({}, batch | {"features": np.zeros(shape, np.float32)}, None)
