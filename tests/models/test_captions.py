"""The losses of captioned pictures alone: by hand in float64, and what they train in a DreamLLM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.captions import contrastive_loss
from lwm.models.dreamllm import SIZES, DreamConfig, DreamLLM


def test_contrast_is_that_of_the_formula_without_twins_and_missing_pictures():
    rng = np.random.default_rng(0)
    pictures, texts = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 6, 5)))
    captions = rng.integers(1, 9, (6, 4)).astype(np.int32)
    captions[4] = captions[1]  # a twin
    captions[5] = 0  # no picture
    there, losses, right = range(5), [], []
    for i in there:
        others = [j for j in there if j != i and {i, j} != {1, 4}]
        for a, b in ((pictures, texts), (texts, pictures)):
            scores = np.array([3 * a[i] @ b[j] for j in [i, *others]])
            losses.append(np.log(np.exp(scores).sum()) - scores[0])
            if a is pictures:
                right.append(scores[0] == scores.max())
    arguments = jnp.float32(pictures), jnp.float32(texts), jnp.float32(3), captions
    loss, accuracy = contrastive_loss(*arguments)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(accuracy, np.mean(right), rtol=1e-6)
    gradient = jax.grad(lambda x: contrastive_loss(x, *arguments[1:])[0])(arguments[0])
    assert np.all(np.any(gradient[:5], axis=1)) and not np.any(gradient[5])


@pytest.mark.slow
def test_parts_learn_of_captions_what_the_language_model_takes_no_part_in():
    sizes = SIZES["debug"]
    parts = {"vision": sizes["vision"] | {"remat": "none"}, "decoder": sizes["decoder"] | {"drop_rate": 0.3}}
    weights = dict(text_weight=0.0, vision_weight=0.0, decoder_weight=1.0, contrast_weight=1.0)
    model = DreamLLM(DreamConfig(**sizes | parts | weights))
    rng, names = np.random.default_rng(0), ("tokens", "targets", "segments", "positions", "places")
    batch = {name: np.zeros((2, 16), np.int32) for name in names} | {"weights": np.zeros((2, 16), np.float32)}
    batch["frames"] = rng.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    captions = rng.integers(1, 16, (2, 3, 8)).astype(np.int32)
    captions[0, 1, 4:] = captions[1, 2] = 0
    batch["captions"] = captions
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    step = jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    (loss, metrics), gradient = jax.device_get(step(params, batch, jax.random.key(1)))
    np.testing.assert_allclose(loss, metrics["loss"])
    assert metrics["decoder_noise"] > 0 and metrics["contrast_loss"] > 0
    moved = {name for name, own in gradient.items() if any(np.any(leaf) for leaf in jax.tree.leaves(own))}
    assert moved == {"vision", "decoder", "contrast"}
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
    # A picture without a caption is in neither loss.
    batch["frames"][1, 2] = 0
    again = jax.device_get(step(params, batch, jax.random.key(1)))[0][0]
    np.testing.assert_allclose(again, loss, rtol=1e-6)
