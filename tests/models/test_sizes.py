"""The table of sizes: published parameter counts, and one-line errors for shapes that cannot be built."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lwm.errors import UserError
from lwm.models.sizes import SIZES, TransformerConfig, count_parameters
from lwm.models.transformer import LWM

_SHAPES = {
    name: jax.ShapeDtypeStruct((1, 16), dtype)
    for name, dtype in dict(
        tokens=jnp.int32, is_vision=jnp.bool_, positions=jnp.int32, segments=jnp.int32
    ).items()
}


def _leaves(tree, *path):
    for key in path:
        tree = tree[key]
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("size", SIZES)
def test_formula_counts_what_is_built(size):
    config = TransformerConfig(**SIZES[size])
    params = jax.eval_shape(LWM(config).init, jax.random.key(0), _SHAPES)
    counts = count_parameters(config)
    built = {
        "text_embedding": _leaves(params, "wte"),
        "attention": _leaves(params, "layers", "attention"),
        "feed_forward": _leaves(params, "layers", "ffn"),
        "norms": _leaves(params, "layers", "attention_norm")
        + _leaves(params, "layers", "ffn_norm")
        + config.width,
        "text_head": _leaves(params, "lm_head"),
        "vision_embedding": _leaves(params.get("vte", {})),
        "vision_head": _leaves(params.get("vision_head", {})),
    }
    assert built == {name: counts[name] for name in built}
    assert _leaves(params) == counts["total"] == sum(built.values())


@pytest.mark.parametrize(
    "size, language",
    [("1b", 1_100_048_384), ("3b", 3_426_473_600), ("7b", 6_738_415_616), ("13b", 13_015_864_320)],
)
def test_published_counts(size, language):
    counts = count_parameters(TransformerConfig(**SIZES[size]))
    assert counts["language"] == language
    assert counts["vision"] == 2 * 8_448 * SIZES[size]["width"]


@pytest.mark.parametrize(
    "field, value",
    [
        ("kv_heads", 3),
        ("head_dim", 7),
        ("dtype", "float16"),
        ("remat", "some"),
        ("layers", 0),
        ("rope_theta", 0.0),
        ("rope_factor", 0.5),
        ("rope_low", 4.0),
        ("rope_original", 0),
        ("tied", 1),
        ("init_std", -1.0),
        ("width", 32.0),
        ("layers", True),
        ("dtype", 16),
        ("scan", 1),
    ],
)
def test_a_bad_field_is_named(field, value):
    with pytest.raises(UserError, match=f"^{field}: (expected .*, found )?'?{value}") as error:
        TransformerConfig(**dict(SIZES["debug"], **{field: value}))
    assert "\n" not in str(error.value)


def test_a_model_needs_a_loss():
    with pytest.raises(UserError, match="text_weight"):
        dataclasses.replace(TransformerConfig(**SIZES["debug"]), text_weight=0.0, vision_weight=0.0)
