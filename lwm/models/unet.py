"""A text-conditional diffusion U-Net (2112.10752; its sizes: `unet_sizes.py`).

    x_t ──── conv ─┬─ blocks ─ half ─┬─ blocks ─ half ─ … ─┐             time ─► every residual block
                   │ skip            │ skip              middle     condition ─► every transformer
    output ─ conv ─┴─ blocks ─ twice ┴─ blocks ─ twice ─ … ┘

A block is a residual block and, on levels that attend, a transformer. Each block on the way up takes in what
one block (or halving) on the way down has left.
"""

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec as P

from lwm.models.unet_blocks import (
    ResidualBlock,
    SpatialTransformer,
    TimeEmbedding,
    convolution,
    laid,
    norm,
)
from lwm.models.unet_sizes import UNetConfig

# Kernels are cut along "fsdp", and along "tensor" where of two products in a row only the second needs a sum:
# the channels between two convolutions, heads, the inside of a feed-forward layer.
PARTITION_RULES = (
    (r"(attention|cross)/(q|k|v)/kernel$", P("fsdp", "tensor")),
    (r"(attention|cross)/out/kernel$", P("tensor", "fsdp")),
    (r"feed/(gate|value)/kernel$", P("fsdp", "tensor")),
    (r"feed/(gate|value)/bias$", P("tensor")),
    (r"feed/out/kernel$", P("tensor", "fsdp")),
    (r"conv_1/kernel$", P(None, None, "fsdp", "tensor")),
    (r"conv_2/kernel$", P(None, None, "tensor", "fsdp")),
    (r"(block_\d+|middle_\d+)/time/kernel$", P("fsdp", "tensor")),
    (r"(conv_1|time)/bias$", P("tensor")),
    (r"(shortcut|half|twice|conv_in)/kernel$", P(None, None, None, "fsdp")),
    (r"conv_out/kernel$", P(None, None, "fsdp", None)),
    (r"(proj_in|proj_out|time/in|time/out)/kernel$", P(None, "fsdp")),
    (r"(bias|scale)$", P()),
)


class UNet(nn.Module):
    """Noised pictures or latents, their times and a condition to a prediction."""

    config: UNetConfig

    @nn.compact
    def __call__(
        self, x_BHWC: Array, times_B: Array, condition_BSC: Array, there_BS: Array | None = None
    ) -> Array:
        """The prediction, float32, of the shape of x.

        Args:
            x_BHWC: x_t; H and W are multiples of `config.factor`.
            times_B: numbers.
            condition_BSC: what cross-attention looks at.
            there_BS: bool, False = padding of the condition; a row of nothing but padding is allowed.

        Raises:
            ValueError: shapes that do not go together.
        """
        self._check(x_BHWC, times_B, condition_BSC, there_BS)
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        residual, transformer = ResidualBlock, SpatialTransformer
        if config.remat:
            residual, transformer = nn.remat(residual), nn.remat(transformer)
        condition_BSC = laid(condition_BSC.astype(dtype))
        with jax.named_scope("time"):
            time_BD = TimeEmbedding(config.channels, dtype, name="time")(times_B)

        def block(x_BHWC, level, way, i):
            x_BHWC = residual(config, widths[level], name=f"{way}_{level}_block_{i}")(x_BHWC, time_BD)
            if config.attention[level]:
                attend = transformer(config, name=f"{way}_{level}_transformer_{i}")
                x_BHWC = attend(x_BHWC, condition_BSC, there_BS)
            return x_BHWC

        widths = [config.channels * multiplier for multiplier in config.multipliers]
        last, patch = len(widths) - 1, config.patch
        x_BHWC = rearrange(x_BHWC, "B (H h) (W w) C -> B H W (h w C)", h=patch, w=patch)
        x_BHWC = laid(convolution(config.channels, "conv_in", dtype)(x_BHWC.astype(dtype)))
        skips = [x_BHWC]
        with jax.named_scope("down"):
            for level, width in enumerate(widths):
                for i in range(config.blocks):
                    x_BHWC = block(x_BHWC, level, "down", i)
                    skips.append(x_BHWC)
                if level < last:
                    x_BHWC = laid(convolution(width, f"down_{level}_half", dtype, stride=2)(x_BHWC))
                    skips.append(x_BHWC)
        with jax.named_scope("middle"):
            x_BHWC = residual(config, widths[-1], name="middle_0")(x_BHWC, time_BD)
            x_BHWC = transformer(config, name="middle_transformer")(x_BHWC, condition_BSC, there_BS)
            x_BHWC = residual(config, widths[-1], name="middle_1")(x_BHWC, time_BD)
        with jax.named_scope("up"):
            for level in reversed(range(len(widths))):
                for i in range(config.blocks + 1):
                    x_BHWC = block(jnp.concatenate([x_BHWC, skips.pop()], axis=-1), level, "up", i)
                if level:
                    x_BHWC = repeat(x_BHWC, "B H W C -> B (H h) (W w) C", h=2, w=2)
                    x_BHWC = laid(convolution(widths[level], f"up_{level}_twice", dtype)(x_BHWC))
        x_BHWC = nn.silu(norm(config, "norm_out")(x_BHWC))
        x_BHWC = convolution(config.image_channels * patch**2, "conv_out", dtype, zero=True)(x_BHWC)
        x_BHWC = rearrange(x_BHWC, "B H W (h w C) -> B (H h) (W w) C", h=patch, w=patch)
        return laid(x_BHWC.astype(jnp.float32))

    def _check(self, x_BHWC, times_B, condition_BSC, there_BS):
        config = self.config
        if x_BHWC.ndim != 4 or x_BHWC.shape[3] != config.image_channels:
            raise ValueError(f"x_BHWC: shape {x_BHWC.shape}; needs [B, H, W, {config.image_channels}]")
        B, H, W, _ = x_BHWC.shape
        if H % config.factor or W % config.factor:
            raise ValueError(f"x_BHWC: {H} x {W}; needs multiples of {config.factor}")
        if times_B.shape != (B,):
            raise ValueError(f"times_B: shape {times_B.shape}; needs {(B,)}")
        if condition_BSC.ndim != 3 or condition_BSC.shape[::2] != (B, config.condition_width):
            needed = f"[{B}, S, {config.condition_width}]"
            raise ValueError(f"condition_BSC: shape {condition_BSC.shape}; needs {needed}")
        if there_BS is not None and there_BS.shape != condition_BSC.shape[:2]:
            raise ValueError(f"there_BS: shape {there_BS.shape}; needs {condition_BSC.shape[:2]}")
