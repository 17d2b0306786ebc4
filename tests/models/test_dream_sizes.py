"""DreamLLM at the size of the paper, by shape alone: its parts, its shardings, its loss and gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.dreamllm import SIZES, DreamConfig, DreamLLM
from lwm.parallel.sharding import shardings


def shapes(config, rows, length, pictures):
    """A batch by shape."""
    names = "tokens", "targets", "segments", "positions", "places"
    batch = {name: jax.ShapeDtypeStruct((rows, length), np.int32) for name in names}
    batch["weights"] = jax.ShapeDtypeStruct((rows, length), np.float32)
    R, r, C = config.vision.resolution, config.decoder.resolution, config.decoder.image_channels
    batch["frames"] = jax.ShapeDtypeStruct((rows, pictures, R, R, 3), np.uint8)
    batch["frame_weights"] = jax.ShapeDtypeStruct((rows, pictures), np.float32)
    if config.decoder.latents:
        batch["features"] = jax.ShapeDtypeStruct((rows, pictures, r, r, C), np.float32)
    return batch


PAPER = {
    "language": 6_738_415_616 + 2 * 64 * 4096,  # LLaMA 7B and 64 more ids
    "decoder": 865_910_724,
    "projector": 1024 * 4096 + 4096,
    "condition": 4096 * 1024,
    "queries": 64 * 4096,
}


def test_the_size_of_the_paper_has_its_parts_and_shardings(mesh_of):
    model = DreamLLM(DreamConfig(**SIZES["paper"]))
    params = jax.eval_shape(model.init, jax.random.key(0), shapes(model.config, 8, 2048, 8))
    counts = {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(own)) for name, own in params.items()
    }
    # CLIP ViT-L/14 has 303 million parameters; of its 24 layers, 23 are seen.
    assert counts | PAPER == counts and 0.9 < counts["vision"] / 303e6 < 1
    for axes in (dict(fsdp=8), dict(data=2, tensor=2, seq=2)):
        mesh = mesh_of(**axes)
        layout = shardings(model.PARTITION_RULES, params, mesh)
        leaves = zip(jax.tree.leaves(params), jax.tree.leaves(layout), strict=True)
        held = sum(math.prod(own.shard_shape(leaf.shape)) for leaf, own in leaves)
        # Widths of eyes and of the decoder have few factors: "seq" does not cut them.
        cut, ways = (
            math.prod(axes.values()) // axes.get("data", 1),
            axes.get("fsdp", 1) * axes.get("tensor", 1),
        )
        language = counts["language"]
        assert held < 1.03 * (language / cut + (sum(counts.values()) - language) / ways)


@pytest.mark.slow
def test_the_size_of_the_paper_has_a_loss_and_gradients():
    model = DreamLLM(DreamConfig(**SIZES["paper"]))
    batch = shapes(model.config, 1, 2048, 4)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)
    loss, gradients = jax.eval_shape(
        jax.value_and_grad(lambda *a: model.loss(*a)[0]), params, batch, jax.random.key(0)
    )
    assert loss.shape == () and jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, params)
