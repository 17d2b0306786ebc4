"""The convolutional encoder and decoder of the VQGAN: images to a grid of latents, and back.

    images BHWC ── patches ── conv ─┬─ blocks ─ half ─┬─ blocks ─ half ─ … ─┬─ 2 blocks ── norm, conv ── z
                                    │    level 0      │     level 1         │   middle
    images BHWC ── unpatch ─ conv ──┴─ blocks ─ twice ┴─ blocks ─ twice ─ … ┴─ 2 blocks ── conv ──────── z

The network is that of VQGAN (2012.09841, table 7) without attention, as LWM uses it (2402.08268, section
4.1). `patch` is ours: 1 is the paper's network, p > 1 folds p×p pixels into channels before the first
convolution. The small sizes need it: convolving few channels at full resolution is what a CPU does worst.
"""

import einops
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class ResBlock(nn.Module):
    """Adds two normalised 3×3 convolutions to its input; BHWC to BHWC with `channels` channels."""

    channels: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        h_BHWC = x_BHWC
        for i in (1, 2):
            h_BHWC = nn.silu(_norm(f"norm_{i}", self)(h_BHWC))
            h_BHWC = _conv(self.channels, f"conv_{i}", self.dtype)(h_BHWC)
        if x_BHWC.shape[-1] != self.channels:
            x_BHWC = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="shortcut")(x_BHWC)
        return x_BHWC + h_BHWC


class Encoder(nn.Module):
    """Images BHWC in [-1, 1] to latents [B, H/f, W/f, code_channels], f = patch · 2^(levels − 1)."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    code_channels: int
    patch: int
    groups: int
    shortcut: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        images_BHWC = x_BHWC
        x_BHWC = _fold(images_BHWC, self.patch)
        x_BHWC = _conv(self.channels, "conv_in", self.dtype)(x_BHWC)
        for level, multiplier in enumerate(self.multipliers):
            width = self.channels * multiplier
            for i in range(self.blocks):
                x_BHWC = ResBlock(width, self.groups, self.dtype, name=f"level_{level}_block_{i}")(x_BHWC)
            if level + 1 < len(self.multipliers):
                # The paper's halving pads only below and to the right, then takes a stride of 2.
                x_BHWC = nn.Conv(
                    width, (3, 3), 2, padding=((0, 1), (0, 1)), dtype=self.dtype, name=f"level_{level}_half"
                )(x_BHWC)
        for i in range(2):
            x_BHWC = ResBlock(width, self.groups, self.dtype, name=f"middle_{i}")(x_BHWC)
        x_BHWC = nn.silu(_norm("norm_out", self)(x_BHWC))
        x_BHWC = _conv(self.latent_channels, "conv_out", self.dtype)(x_BHWC)
        z_BHWC = nn.Conv(self.code_channels, (1, 1), dtype=self.dtype, name="to_code")(x_BHWC)
        if self.shortcut:
            factor = images_BHWC.shape[1] // z_BHWC.shape[1]
            x_BHWC = _fold(images_BHWC, factor)
            z_BHWC = z_BHWC + nn.Dense(self.code_channels, dtype=self.dtype, name="shortcut")(x_BHWC)
        return z_BHWC


class Decoder(nn.Module):
    """Latents [B, H/f, W/f, C] to images [B, H, W, 3], about [-1, 1] and not clipped.

    Each level has one block more than the encoder's, as in the paper.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    latent_channels: int
    patch: int
    groups: int
    shortcut: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BHWC: Array) -> Array:
        codes_BHWC = x_BHWC
        width = self.channels * self.multipliers[-1]
        x_BHWC = nn.Conv(self.latent_channels, (1, 1), dtype=self.dtype, name="from_code")(x_BHWC)
        x_BHWC = _conv(width, "conv_in", self.dtype)(x_BHWC)
        for i in range(2):
            x_BHWC = ResBlock(width, self.groups, self.dtype, name=f"middle_{i}")(x_BHWC)
        for level in reversed(range(len(self.multipliers))):
            width = self.channels * self.multipliers[level]
            for i in range(self.blocks + 1):
                x_BHWC = ResBlock(width, self.groups, self.dtype, name=f"level_{level}_block_{i}")(x_BHWC)
            if level:
                x_BHWC = einops.repeat(x_BHWC, "B H W C -> B (H h) (W w) C", h=2, w=2)
                x_BHWC = _conv(width, f"level_{level}_twice", self.dtype)(x_BHWC)
        x_BHWC = nn.silu(_norm("norm_out", self)(x_BHWC))
        x_BHWC = _unfold(_conv(3 * self.patch**2, "conv_out", self.dtype)(x_BHWC), self.patch)
        if self.shortcut:
            factor = x_BHWC.shape[1] // codes_BHWC.shape[1]
            patches_BHWC = nn.Dense(3 * factor**2, dtype=self.dtype, name="shortcut")(codes_BHWC)
            x_BHWC = x_BHWC + _unfold(patches_BHWC, factor)
        return x_BHWC


def _fold(x_BHWC: Array, factor: int) -> Array:
    return einops.rearrange(x_BHWC, "B (H h) (W w) C -> B H W (h w C)", h=factor, w=factor)


def _unfold(x_BHWC: Array, factor: int) -> Array:
    return einops.rearrange(x_BHWC, "B H W (h w C) -> B (H h) (W w) C", h=factor, w=factor)


def _conv(channels: int, name: str, dtype: jnp.dtype) -> nn.Conv:
    return nn.Conv(channels, (3, 3), dtype=dtype, name=name)


def _norm(name: str, module: nn.Module) -> nn.GroupNorm:
    return nn.GroupNorm(module.groups, epsilon=1e-6, dtype=module.dtype, name=name)
