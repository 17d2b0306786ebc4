"""FLOPs of a VQGAN by formula, held against what the compiler counts."""

import jax
import jax.numpy as jnp
import pytest

from lwm.models.vqgan import SIZES, VQGAN, VQGANConfig
from lwm.scaling.vqgan_flops import decode_flops, encode_flops, vqgan_training_flops

# Small grids, on which a good part of a convolution meets the padding; wide enough for products to be nearly
# all of it.
SMALL = dict(
    resolution=32, channels=128, multipliers=(1, 2), blocks=1, latent_channels=64, codes=512, code_channels=64
)
FOLDED = SIZES["tiny"] | dict(resolution=32, channels=256, groups=32)


def programs(config, images):
    """(encode, decode, loss and gradient) of so many pictures, traced and not compiled."""
    model, pixels = VQGAN(config), (config.resolution, config.resolution, 3)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), {}))
    images_BHWC = jax.ShapeDtypeStruct((images, *pixels), jnp.uint8)
    codes_BP = jax.ShapeDtypeStruct((images, config.codes_per_frame), jnp.int32)
    gradient = jax.value_and_grad(lambda params, x: model.loss(params, {"images": x}, None)[0])
    return (
        jax.jit(model.encode).lower(params, images_BHWC),
        jax.jit(model.decode).lower(params, codes_BP),
        jax.jit(gradient).lower(params, images_BHWC),
    )


@pytest.mark.parametrize("changes", [SMALL, FOLDED], ids=["levels", "patches"])
def test_formula_is_within_two_per_cent_of_the_compiler(changes):
    config = VQGANConfig(**changes)
    counted = tuple(own.cost_analysis()["flops"] for own in programs(config, 2))
    found = encode_flops(config, 2), decode_flops(config, 2), vqgan_training_flops(config, 2)
    assert found == pytest.approx(counted, rel=0.02)


@pytest.mark.slow
def test_a_discriminator_looks_at_a_reconstruction_once():
    """Traced it does so twice, which the compiler merges; here most of a step is the discriminator."""
    narrow = dict(resolution=16, channels=32, blocks=0, latent_channels=32, code_channels=32, codes=64)
    players = dict(adversarial_weight=1.0, discriminator_channels=128, discriminator_layers=2)
    config = VQGANConfig(**SMALL | narrow | players)
    *_, traced = programs(config, 2)
    assert vqgan_training_flops(config, 2) == pytest.approx(
        traced.compile().cost_analysis()["flops"], rel=0.02
    )
    assert vqgan_training_flops(config, 2) < 0.95 * traced.cost_analysis()["flops"]
