"""The modality nets of MultiModel around its body (1706.05137, section 2.5): into it and out of it.

    language      the embedding of a subword · sqrt(D), 0 for padding     out: a projection (layers.Head)
    image         the entry flow of Xception (1610.02357)                 H / 16 x W / 16 positions
    audio         strided residual blocks over a log spectrogram          frames / 2^blocks positions
    categorical   the exit flow of Xception, the mean over positions      out: logits of classes

Normalisation is by layer, not by batch, so that rows do not know of each other.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.models.attention_block import Stream
from lwm.models.conv_blocks import layer_norm
from lwm.models.multimodel_sizes import MultiModelConfig
from lwm.ops.depthwise import depthwise
from lwm.ops.spectrogram import log_spectrogram


class SeparableConv(nn.Module):
    """ReLU, 3x3 by channel, pointwise, layer norm; BHWC to as many `channels`."""

    config: MultiModelConfig
    channels: int

    @nn.compact
    def __call__(self, x_BHWC):
        B, H, W, C = x_BHWC.shape
        taps = self.param("taps", nn.initializers.normal(1 / 3), (3, 3, C), jnp.float32)
        padded = jnp.pad(nn.relu(x_BHWC), ((0, 0), (1, 1), (1, 1), (0, 0)))
        # Three rows of three taps; rows of the picture are rows of the batch to `depthwise`.
        out = sum(
            depthwise(padded[:, i : i + H].reshape(B * H, W + 2, C), taps[i], 1).reshape(x_BHWC.shape)
            for i in range(3)
        )
        return layer_norm(self.config, "norm")(_pointwise(self, "pointwise", self.channels)(out))


class Downsample(nn.Module):
    """Two separable convolutions and a maximum over 3x3, beside a shortcut; both with the same stride."""

    config: MultiModelConfig
    channels: tuple[int, int]
    stride: tuple[int, int] = (2, 2)

    @nn.compact
    def __call__(self, x_BHWC):
        first, last = self.channels
        h_BHWC = SeparableConv(self.config, first, name="first")(x_BHWC)
        h_BHWC = SeparableConv(self.config, last, name="second")(h_BHWC)
        h_BHWC = nn.max_pool(h_BHWC, (3, 3), self.stride, padding="SAME")
        thinned = x_BHWC[:, :: self.stride[0], :: self.stride[1]]
        return h_BHWC + _pointwise(self, "shortcut", last)(thinned)


class ImageInput(nn.Module):
    """uint8 [B, R, R, 3] to a stream of all positions, row by row."""

    config: MultiModelConfig

    @nn.compact
    def __call__(self, images_BRRC) -> Stream:
        config, D = self.config, self.config.width
        with jax.named_scope("image"):
            x_BHWC = _standardised(images_BRRC.astype(jnp.float32)).astype(config.dtype)
            x_BHWC = _stem(config, min(32, D), 2, "stem_1")(x_BHWC)
            x_BHWC = nn.relu(layer_norm(config, "norm_1")(x_BHWC))
            x_BHWC = _stem(config, min(64, D), 1, "stem_2")(x_BHWC)
            x_BHWC = layer_norm(config, "norm_2")(x_BHWC)
            for index, channels in enumerate((min(128, D), min(256, D), D)):
                x_BHWC = Downsample(config, (channels, channels), name=f"block_{index + 1}")(x_BHWC)
            x_BTD = layer_norm(config, "norm")(x_BHWC.reshape(len(x_BHWC), -1, D))
            return Stream(x_BTD, jnp.ones(x_BTD.shape[:2], bool))


class AudioInput(nn.Module):
    """A waveform float [B, A] of which `samples_B` count to a stream."""

    config: MultiModelConfig

    @nn.compact
    def __call__(self, waveform_BA, samples_B) -> Stream:
        config, D = self.config, self.config.width
        with jax.named_scope("audio"):
            x_BIC = log_spectrogram(waveform_BA, window=config.window, hop=config.hop)
            x_BHWC = x_BIC[..., None].astype(config.dtype)
            x_BHWC = _stem(config, min(config.audio_channels, D), 1, "stem")(x_BHWC)
            stride = (2, 2 if config.audio_halves else 1)
            for index in range(config.audio_blocks):
                channels = min(config.audio_channels * 2**index, D)
                x_BHWC = Downsample(config, (channels, channels), stride, name=f"block_{index + 1}")(x_BHWC)
            # What is left of the frequencies are channels of a position.
            x_BTC = x_BHWC.reshape(*x_BHWC.shape[:2], -1)
            x_BTD = layer_norm(config, "norm")(_pointwise(self, "join", D)(nn.relu(x_BTC)))
            step = config.hop * 2**config.audio_blocks
            return Stream(x_BTD, jnp.arange(x_BTD.shape[1]) * step < samples_B[:, None])


class CategoricalOutput(nn.Module):
    """A stream of positions without padding to float32 logits [B, classes]."""

    config: MultiModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        config, (B, T, D) = self.config, x_BTD.shape
        side = math.isqrt(T)
        with jax.named_scope("categorical"):
            # A picture is a square again; what is none becomes a line.
            x_BHWC = x_BTD.reshape(B, side, side, D) if side * side == T else x_BTD.reshape(B, T, 1, D)
            x_BHWC = Downsample(config, (D, 5 * D // 4), name="block")(x_BHWC)
            x_BHWC = SeparableConv(config, 2 * D, name="first")(x_BHWC)
            x_BHWC = SeparableConv(config, 5 * D // 2, name="second")(x_BHWC)
            mean_BC = jnp.mean(nn.relu(x_BHWC).astype(jnp.float32), axis=(1, 2))
            return nn.Dense(config.classes, use_bias=False, name="classes")(mean_BC)


def _stem(config: MultiModelConfig, channels: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(channels, (3, 3), stride, use_bias=False, dtype=jnp.dtype(config.dtype), name=name)


def _pointwise(module: nn.Module, name: str, channels: int) -> nn.Dense:
    return nn.Dense(channels, use_bias=False, dtype=jnp.dtype(module.config.dtype), name=name)


def _standardised(x_BRRC):
    """Mean 0 and variance 1 for each image; a flat one stays finite."""
    centred = x_BRRC - jnp.mean(x_BRRC, axis=(1, 2, 3), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(centred), axis=(1, 2, 3), keepdims=True))
    return centred / jnp.maximum(deviation, 1.0)
