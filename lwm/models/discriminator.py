"""The patch discriminator: is this patch of a real image? (1611.07004; in the VQGAN: 2012.09841, eq. 5)."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class Discriminator(nn.Module):
    """Images BHWC in [-1, 1] to one score per patch, BHW: above 0 says real.

    `layers` convolutions of 4×4 with stride 2 and one without; group instead of batch normalisation, so that
    a score depends on its own image alone, whatever the batch and the mesh.
    """

    channels: int
    layers: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        width = self.channels
        for i in range(self.layers + 1):
            stride = 2 if i < self.layers else 1
            x_BHWC = nn.Conv(width, (4, 4), stride, dtype=self.dtype, name=f"conv_{i}")(x_BHWC)
            if i:
                x_BHWC = nn.GroupNorm(self.groups, dtype=self.dtype, name=f"norm_{i}")(x_BHWC)
            x_BHWC = nn.leaky_relu(x_BHWC, 0.2)
            width = min(2 * width, 8 * self.channels)
        return nn.Conv(1, (4, 4), dtype=self.dtype, name="conv_out")(x_BHWC)[..., 0].astype(jnp.float32)


def discriminator_loss(real_BHW: Array, fake_BHW: Array) -> Array:
    """Hinge loss on the scores of real and reconstructed images: a float32 scalar."""
    return (jnp.mean(nn.relu(1.0 - real_BHW)) + jnp.mean(nn.relu(1.0 + fake_BHW))) / 2


def generator_loss(fake_BHW: Array) -> Array:
    """What the autoencoder lowers to pass for real: a float32 scalar."""
    return -jnp.mean(fake_BHW)
