"""The blocks of a text-conditional diffusion U-Net: residual blocks that know the time, and transformers.

As in Latent Diffusion (2112.10752, section 3.3 and appendix E) with the linear projections of Stable
Diffusion 2. The last layer of every block starts at zero, so that a new block adds nothing.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array

from lwm.models.unet_sizes import UNetConfig
from lwm.ops.axes import ROWS, TENSOR, pieces
from lwm.ops.projection import project
from lwm.ops.short_attention import short_attention
from lwm.parallel.sharding import constrain


class Linear(nn.Module):
    """x_BTD to [B, T, features]; zero: starts as 0."""

    features: int
    dtype: jnp.dtype
    bias: bool = True
    zero: bool = False

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        draw = nn.initializers.zeros if self.zero else nn.initializers.lecun_normal()
        kernel = self.param("kernel", draw, (x_BTD.shape[-1], self.features), jnp.float32)
        out = project(x_BTD.astype(self.dtype), kernel.astype(self.dtype))
        if self.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            out += bias.astype(self.dtype)
        return out


class TimeEmbedding(nn.Module):
    """Times [B] to vectors [B, 4 x channels]: cosines, then sines, and two layers."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, times_B: Array) -> Array:
        half = self.channels // 2
        rates = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
        angles = times_B[:, None].astype(jnp.float32) * rates
        x_BD = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        x_BD = nn.silu(nn.Dense(4 * self.channels, dtype=self.dtype, name="in")(x_BD))
        return nn.Dense(4 * self.channels, dtype=self.dtype, name="out")(x_BD)


class ResidualBlock(nn.Module):
    """Adds two normalised 3 x 3 convolutions to its input, and the time between them; BHWC to `features`."""

    config: UNetConfig
    features: int

    @nn.compact
    def __call__(self, x_BHWC: Array, time_BD: Array) -> Array:
        dtype = jnp.dtype(self.config.dtype)
        h_BHWC = nn.silu(norm(self.config, "norm_1")(x_BHWC))
        h_BHWC = convolution(self.features, "conv_1", dtype)(h_BHWC)
        shift_BD = nn.Dense(self.features, dtype=dtype, name="time")(nn.silu(time_BD))
        h_BHWC = _cut(h_BHWC + shift_BD[:, None, None])
        h_BHWC = nn.silu(norm(self.config, "norm_2")(h_BHWC))
        h_BHWC = convolution(self.features, "conv_2", dtype, zero=True)(h_BHWC)
        if x_BHWC.shape[-1] != self.features:
            x_BHWC = nn.Conv(self.features, (1, 1), dtype=dtype, name="shortcut")(x_BHWC)
        return laid(x_BHWC + h_BHWC)


class SpatialTransformer(nn.Module):
    """Adds to its input, BHWC, what transformer blocks over its places make of it and of the condition."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x_BHWC: Array, condition_BSC: Array, there_BS: Array | None) -> Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        B, H, W, D = x_BHWC.shape
        h_BTD = rearrange(norm(config, "norm", 1e-6)(x_BHWC), "B H W D -> B (H W) D")
        h_BTD = Linear(D, dtype, name="proj_in")(h_BTD)
        for i in range(config.transformer_layers):
            h_BTD = TransformerBlock(config, name=f"block_{i}")(h_BTD, condition_BSC, there_BS)
        h_BTD = Linear(D, dtype, zero=True, name="proj_out")(h_BTD)
        return laid(x_BHWC + h_BTD.reshape(B, H, W, D))


class TransformerBlock(nn.Module):
    """Places look at each other, then at the condition, then a gated feed-forward layer; each is added."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x_BTD: Array, condition_BSC: Array, there_BS: Array | None) -> Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)

        def normed(name):
            return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)(x_BTD)

        attend = {"head_dim": config.head_dim, "block": config.attention_block, "dtype": dtype}
        h_BTD = normed("norm_1")
        x_BTD = x_BTD + Attention(**attend, name="attention")(h_BTD, h_BTD)
        x_BTD = x_BTD + Attention(**attend, name="cross")(normed("norm_2"), condition_BSC, there_BS)
        return x_BTD + GatedFeed(dtype, name="feed")(normed("norm_3"))


class Attention(nn.Module):
    """Attention of x to y with as many heads as the width of x holds; only the last projection has a bias."""

    head_dim: int
    block: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: Array, y_BSC: Array, there_BS: Array | None = None) -> Array:
        (B, T, D), S, H = x_BTD.shape, y_BSC.shape[1], self.head_dim

        def heads(name, x, length):
            return Linear(D, self.dtype, bias=False, name=name)(x).reshape(B, length, D // H, H)

        with jax.named_scope("qkv"):
            q_BTNH = heads("q", x_BTD, T)
            k_BSNH, v_BSNH = heads("k", y_BSC, S), heads("v", y_BSC, S)
        out_BTNH = short_attention(q_BTNH, k_BSNH, v_BSNH, there_BS, block=self.block)
        return Linear(D, self.dtype, name="out")(out_BTNH.reshape(B, T, D))


class GatedFeed(nn.Module):
    """GEGLU (2002.05202): (gelu(x gate) · x value) out, four times as wide in between."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BTD: Array) -> Array:
        D = x_BTD.shape[-1]
        gate_BTF = nn.gelu(Linear(4 * D, self.dtype, name="gate")(x_BTD), approximate=False)
        return Linear(D, self.dtype, name="out")(gate_BTF * Linear(4 * D, self.dtype, name="value")(x_BTD))


def norm(config: UNetConfig, name: str, epsilon: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm, with statistics in float32."""
    return nn.GroupNorm(config.groups, epsilon=epsilon, dtype=jnp.dtype(config.dtype), name=name)


def convolution(
    features: int, name: str, dtype: jnp.dtype, *, stride: int = 1, zero: bool = False
) -> nn.Conv:
    """3 x 3 with one pixel of padding on every side."""
    draw = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(
        features, (3, 3), stride, padding=((1, 1), (1, 1)), dtype=dtype, kernel_init=draw, name=name
    )


def laid(x: Array) -> Array:
    """Rows over ("data", "fsdp") if these divide them (a sample of one does not), the rest whole."""
    return constrain(x, _rows(x), *[None] * (x.ndim - 1))


def _cut(x_BHWC: Array) -> Array:
    """As `laid`, but with channels over "tensor" if it divides them, between the products of a block."""
    channels = TENSOR if x_BHWC.shape[-1] % pieces(TENSOR) == 0 else None
    return constrain(x_BHWC, _rows(x_BHWC), None, None, channels)


def _rows(x):
    return ROWS if x.shape[0] % pieces(ROWS) == 0 else None
