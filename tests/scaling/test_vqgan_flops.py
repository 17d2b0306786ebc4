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


def counted(config, images):
    """The compiler's count of (encode, decode, loss and gradient) of so many pictures, before it compiles."""
    model, pixels = VQGAN(config), (config.resolution, config.resolution, 3)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), {}))
    images_BHWC = jax.ShapeDtypeStruct((images, *pixels), jnp.uint8)
    codes_BP = jax.ShapeDtypeStruct((images, config.codes_per_frame), jnp.int32)
    gradient = jax.value_and_grad(lambda params, x: model.loss(params, {"images": x}, None)[0])
    lowered = (
        jax.jit(model.encode).lower(params, images_BHWC),
        jax.jit(model.decode).lower(params, codes_BP),
        jax.jit(gradient).lower(params, images_BHWC),
    )
    return tuple(own.cost_analysis()["flops"] for own in lowered)


@pytest.mark.parametrize("changes", [SMALL, FOLDED], ids=["levels", "patches"])
def test_formula_is_within_two_per_cent_of_the_compiler(changes):
    config = VQGANConfig(**changes)
    found = encode_flops(config, 2), decode_flops(config, 2), vqgan_training_flops(config, 2)
    assert found == pytest.approx(counted(config, 2), rel=0.02)
