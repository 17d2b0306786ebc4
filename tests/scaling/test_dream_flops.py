"""FLOPs of a DreamLLM by formula, held against what the compiler counts before it compiles."""

import jax
import jax.numpy as jnp
import pytest

from lwm.models.dreamllm import DreamConfig, DreamLLM
from lwm.scaling.dream_flops import dream_flops

# Wide enough for products to be nearly all of it. Every loop has one turn: bodies are counted once.
ROWS, LENGTH, PICTURES, BLOCK = 2, 32, 2, 512
CONFIG = dict(
    vision=dict(
        resolution=16, patch=4, encoder_layers=3, encoder_width=256, encoder_ffn=512, encoder_heads=2,
        remat="none", scan=False, attention_block=BLOCK,
    ),
    language=dict(
        vocab_size=384, vision_vocab_size=0, width=256, ffn=640, layers=2, heads=2, kv_heads=1, head_dim=128,
        remat="none", scan=False, attention_block=BLOCK,
    ),
    decoder=dict(
        image_channels=3, channels=256, multipliers=(1, 2), attention=(False, True), blocks=1, head_dim=128,
        condition_width=256, resolution=16, patch=2, unconditional_length=0, text_vocab_size=384,
        text_layers=2, text_heads=2, text_ffn=512, text_length=16, attention_block=BLOCK,
    ),
    queries=4,
    dream_start=380,
)  # fmt: skip
JOINED = ("projector", "queries", "condition")  # what alignment trains, beside what is frozen
STAGES = {
    "alignment": dict(trains=JOINED),
    "comprehension": dict(trains=(*JOINED, "language"), vision_weight=0.0),
    "creation": dict(trains=(*JOINED, "language"), text_weight=0.0),
    "everything": {},
    "parts": dict(
        trains=("vision", "language", "decoder", "contrast"), vision_weight=0.0, decoder_weight=1.0,
        contrast_weight=1.0,
    ),
}  # fmt: skip


def counted(config):
    """Loss and gradient of a step."""
    model, shape = DreamLLM(config), jax.ShapeDtypeStruct
    batch = dict.fromkeys(("tokens", "targets", "segments", "positions", "places"), (ROWS, LENGTH))
    batch["captions"] = ROWS, PICTURES, config.decoder.text_length
    batch = {name: shape(dims, jnp.int32) for name, dims in batch.items()}
    batch["weights"] = shape((ROWS, LENGTH), jnp.float32)
    batch["frame_weights"] = shape((ROWS, PICTURES), jnp.float32)
    batch["frames"] = shape((ROWS, PICTURES, *2 * [config.vision.resolution], 3), jnp.uint8)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model.init, key, batch)
    gradient = jax.value_and_grad(lambda params, batch, key: model.loss(params, batch, key)[0])
    return jax.jit(gradient).lower(params, batch, key).cost_analysis()["flops"]


@pytest.mark.parametrize(
    "stage",
    [name if name == "comprehension" else pytest.param(name, marks=pytest.mark.slow) for name in STAGES],
)
def test_formula_is_within_two_per_cent_of_the_compiler(stage):
    """Attention of the language model counts four times over, and a sixth for scores made again on the way
    back: a block also does the half that the causal mask hides, and before compiling it stands there twice,
    for blocks on the diagonal and for others."""
    config = DreamConfig(**CONFIG | STAGES[stage])
    found = dream_flops(config, ROWS, LENGTH, PICTURES)
    causal = 4 * found.attention * 7 / 6 - found.attention
    assert found.model + causal == pytest.approx(counted(config), rel=0.02)


def test_a_frozen_part_costs_less_and_a_loss_without_weight_nothing():
    whole, comprehension, alignment = (
        dream_flops(DreamConfig(**CONFIG | STAGES[name]), ROWS, LENGTH, PICTURES)
        for name in ("everything", "comprehension", "alignment")
    )
    assert comprehension.language == whole.language
    assert alignment.language == pytest.approx(whole.language * 4 / 6)
    assert comprehension.unet == comprehension.condition == 0 < alignment.unet < whole.unet
    assert alignment.eyes < whole.eyes / 2


def test_remat_makes_again_what_has_a_gradient():
    """A frozen encoder, which nothing goes back through, is made once."""
    parts = {name: CONFIG[name] | {"remat": "nothing_saveable"} for name in ("vision", "language")}
    parts["decoder"] = CONFIG["decoder"] | {"remat": True}
    kept, again = (
        dream_flops(DreamConfig(**CONFIG | changes | STAGES["alignment"]), ROWS, LENGTH, PICTURES)
        for changes in ({}, parts)
    )
    assert kept.again == 0 and again.model == kept.model
    heads = ROWS * LENGTH * CONFIG["language"]["width"] * CONFIG["language"]["vocab_size"]
    language = kept.language / 2 - 2 * heads + kept.attention / 3
    assert language < again.again < language + kept.unet / 2
