"""Sizes of the three families: counts beside the published ones, and one-line errors for other shapes."""

import functools

import jax
import numpy as np
import pytest

from lwm import systems
from lwm.errors import UserError
from lwm.models import cross_sizes
from lwm.models.cross_attention import SIZES, CrossAttentionConfig, CrossAttentionLM, count_cross_parameters
from lwm.ops.xattn_ways import WAYS


def built(config):
    """Parameters by shape."""
    names = dict(tokens=np.int32, positions=np.int32, segments=np.int32, media=np.int32, is_vision=np.bool_)
    batch = {name: jax.ShapeDtypeStruct((1, 8), kind) for name, kind in names.items()}
    R, C, P = config.resolution, config.feature_width, config.frame_tokens
    batch["frame_ids"] = jax.ShapeDtypeStruct((1, 2), np.int32)
    batch["frames"] = jax.ShapeDtypeStruct((1, 2, R, R, 3), np.uint8)
    batch["features"] = jax.ShapeDtypeStruct((1, 2, P, C), np.float32)
    return jax.eval_shape(functools.partial(CrossAttentionLM(config).init, jax.random.key(0)), batch)


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("size", SIZES)
def test_formula_counts_what_is_built(size):
    config = CrossAttentionConfig(**SIZES[size])
    params, counts = built(config), count_cross_parameters(config)
    vision = params["vision"]
    assert size_of(params) == counts["total"]
    for part in ("encoder", "projector", "resampler"):
        assert size_of(vision.get(part, {})) == counts[part]
    cross = size_of(params["layers"]["cross"])
    assert cross == counts["cross_attention"] + counts["cross_feed_forward"]


def test_formula_counts_what_is_built_for_stored_features():
    for resampler_layers in (0, 2):
        eyes = dict(encoder_layers=0, resampler_layers=resampler_layers)
        config = CrossAttentionConfig(**SIZES["debug"] | eyes)
        assert size_of(built(config)) == count_cross_parameters(config)["total"]


@pytest.mark.parametrize(
    "size, part, published",
    [
        ("llama3v_11b", "total", 10.6e9),  # model card: 11B (10.6B)
        ("llama3v_11b", "language", 8.03e9),  # Llama 3.1 8B
        ("owl3_7b", "language", 7.6e9),  # Qwen2 7B, 1.5B and 0.5B
        ("owl3_2b", "language", 1.54e9),
        ("owl3_1b", "language", 0.49e9),
        ("flamingo_9b", "language", 6.7e9),  # MPT 7B
        ("flamingo_3b", "language", 1.3e9),  # MPT 1B
    ],
)
def test_published_counts(size, part, published):
    counts = count_cross_parameters(CrossAttentionConfig(**SIZES[size]))
    print(size, {name: f"{count / 1e9:.3f}B" for name, count in counts.items()})
    assert abs(counts[part] / published - 1) < 0.02


@pytest.mark.parametrize(
    "size, layers, cross, tokens",
    [
        ("llama3v_11b", 32, 8, 6404),
        ("owl3_7b", 28, 4, 729),
        ("owl3_2b", 28, 4, 729),
        ("owl3_1b", 24, 4, 729),
        ("flamingo_9b", 32, 8, 64),
        ("flamingo_3b", 24, 24, 64),
    ],
)
def test_families_are_those_of_the_paper(size, layers, cross, tokens):
    config = CrossAttentionConfig(**SIZES[size])
    assert (config.layers, config.cross_layers, config.frame_tokens) == (layers, cross, tokens)


def test_ways_are_those_of_the_operation():
    assert (*WAYS, "auto") == cross_sizes.WAYS


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(cross_layers=3), "cross_layers: 3 does not divide layers = 4"),
        (dict(cross_layers=0), "cross_layers: 0"),
        (dict(feature_width=0), "feature_width: 0"),
        (dict(frame_tokens=3), "frame_tokens: 3, but a frame has 4 patches"),
        (dict(patch=3), "patch: 3 does not divide resolution = 8"),
        (dict(encoder_heads=3), "encoder_heads: 3 does not divide encoder_width = 16"),
        (dict(encoder_heads=16, resampler_layers=1), "encoder_heads: 16 does not divide feature_width = 24"),
        (dict(encoder_layers=-1), "encoder_layers: -1"),
        (dict(way="teleport"), "way: 'teleport'"),
        (dict(media="later"), "media: 'later'"),
        (dict(key_block=8, way="rotate_keys"), "key_block: 8 needs recompute and way='rotate_queries'"),
        (dict(key_block=8, recompute=False), "key_block: 8"),
        (dict(recompute=1), "recompute: expected bool, found 1"),
    ],
)
def test_a_bad_field_is_named(change, words):
    with pytest.raises(UserError, match=f"^{words}") as error:
        CrossAttentionConfig(**SIZES["debug"] | change)
    assert "\n" not in str(error.value)


def test_configs_name_the_model():
    model = systems.build_model({"name": "cross_attention", "size": "tiny", "way": "rotate_keys"})
    assert isinstance(model, CrossAttentionLM) and model.config.way == "rotate_keys"
    with pytest.raises(UserError, match=r"^config\.model\.way: 'x' is not known"):
        systems.build_model({"name": "cross_attention", "size": "tiny", "way": "x"})
