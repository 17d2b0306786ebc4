"""From the frames of a clip to the features that cross-attention layers look at.

    frames    ─► patches ─► blocks, bidirectional inside a frame ─► projector ─┐
                 (An Image is Worth 16x16 Words, 2010.11929)                    ├─► resampler ─► norm + time
    features, stored ones ─────────────────────────────────────────────────────┘   (or none)

The tokens of all frames lie one after another along one dimension, S = frames x tokens of a frame, cut over
"seq" by whole frames; nothing is sent between devices. Blocks are made of the layers of the language model
(RMSNorm, SwiGLU) rather than of a second kind; attention is `frame_attention`.

Cross-attention has no positions, so that of itself it cannot tell the first frame of a clip from the last:
"which came first?" would have no answer. Llama 3.2 Vision leaves it at that, Flamingo learns a vector for
each of its eight frames (2204.14198, section 3.1.1). Here features are normalised and a sinusoid of the
number of their frame (1706.03762, section 3.5) is added, which has no parameters and no longest clip.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from lwm.models.activations import rematerialised, stacked
from lwm.models.cross_sizes import CrossAttentionConfig
from lwm.models.layers import FeedForward, RMSNorm
from lwm.ops.frame_attention import frame_attention
from lwm.ops.masks import FRAME_BITS
from lwm.ops.projection import project
from lwm.parallel.sharding import BATCH, constrain


class FrameAttention(nn.Module):
    """Attention of tokens to others of the same frame; no positions, no grouped heads.

    config: for `encoder_heads`, the block of scores and the type. frames: in a row.
    """

    config: CrossAttentionConfig
    frames: int

    @nn.compact
    def __call__(self, x_BTD, y_BSD):
        """out_BTD of queries from x and keys and values from y, both normalised."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        D, N = x_BTD.shape[-1], config.encoder_heads

        def weight(name):
            shape = (D, D)
            return self.param(name, nn.initializers.normal(config.init_std), shape, jnp.float32).astype(dtype)

        q_BTNH, k_BSNH, v_BSNH = (
            project(x, weight(name)).reshape(*x.shape[:2], N, D // N)
            for name, x in (("wq", x_BTD), ("wk", y_BSD), ("wv", y_BSD))
        )
        out_BTNH = frame_attention(q_BTNH, k_BSNH, v_BSNH, frames=self.frames, block=config.attention_block)
        return project(out_BTNH.reshape(x_BTD.shape), weight("wo"))


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)), inside every frame; the carry of a scan over layers."""

    config: CrossAttentionConfig
    frames: int

    @nn.compact
    def __call__(self, x_BSD):
        config = self.config
        h_BSD = RMSNorm(config.norm_eps, name="attention_norm")(x_BSD)
        x_BSD += FrameAttention(config, self.frames, name="attention")(h_BSD, h_BSD)
        return _fed(config, x_BSD), None


class ResamplerBlock(nn.Module):
    """Latents look at the tokens of their frame and at themselves (Perceiver, 2204.14198, figure 5)."""

    config: CrossAttentionConfig
    frames: int

    @nn.compact
    def __call__(self, latents_BTC, y_BSC):
        config = self.config
        h_BTC = RMSNorm(config.norm_eps, name="attention_norm")(latents_BTC)
        y_BSC = RMSNorm(config.norm_eps, name="media_norm")(y_BSC)
        seen = jnp.concatenate([by_frame(x, self.frames) for x in (y_BSC, h_BTC)], axis=2)
        latents_BTC += FrameAttention(config, self.frames, name="attention")(h_BTC, in_a_row(seen))
        return _fed(config, latents_BTC), None


class Encoder(nn.Module):
    """A vision transformer over the frames of a clip, each by itself."""

    config: CrossAttentionConfig

    @nn.compact
    def __call__(self, frames_BIRRC):
        """Frames uint8 [B, I, R, R, 3] to [B, S, encoder_width], S = I x (patches and class tokens)."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        normal, D = nn.initializers.normal(config.init_std), config.encoder_width
        patches = rearrange(
            frames_BIRRC, "B I (h p) (w q) C -> B (I h w) (p q C)", p=config.patch, q=config.patch
        )
        table = self.param("patches", normal, (patches.shape[-1], D), jnp.float32).astype(dtype)
        places = config.patches + config.class_tokens
        positions_PD = self.param("positions", normal, (places, D), jnp.float32).astype(dtype)
        frames = frames_BIRRC.shape[1]
        x_BIPD = by_frame(project(patches.astype(dtype) / 127.5 - 1, table), frames)
        # A class token is its place and nothing else.
        x_BIPD = jnp.pad(x_BIPD, ((0, 0), (0, 0), (0, config.class_tokens), (0, 0))) + positions_PD
        blocks = stacked(rematerialised(EncoderBlock, config), config.encoder_layers, config)
        x_BSD, _ = blocks(config, frames, name="blocks")(_laid(in_a_row(x_BIPD)))
        return RMSNorm(config.norm_eps, name="norm")(x_BSD)


class Resampler(nn.Module):
    """However many features of each frame to `frame_tokens`."""

    config: CrossAttentionConfig
    frames: int

    @nn.compact
    def __call__(self, y_BSC):
        config, (B, _, C) = self.config, y_BSC.shape
        normal = nn.initializers.normal(config.init_std)
        latents_PC = self.param("latents", normal, (config.frame_tokens, C), jnp.float32)
        latents_BIPC = jnp.broadcast_to(latents_PC.astype(y_BSC.dtype), (B, self.frames, *latents_PC.shape))
        blocks = stacked(
            rematerialised(ResamplerBlock, config), config.resampler_layers, config, nn.broadcast
        )
        return blocks(config, self.frames, name="blocks")(_laid(in_a_row(latents_BIPC)), y_BSC)[0]


class Vision(nn.Module):
    """What cross-attention layers look at, of frames or of stored features."""

    config: CrossAttentionConfig

    @nn.compact
    def __call__(self, frames, frame_ids_BI):
        """Features y_BSC, S = frames x `frame_tokens`, in the type of the model.

        Args:
            frames: uint8 [B, I, R, R, 3]; or, without an encoder, float features [B, I, any number, C].
            frame_ids_BI: int32, (clip << FRAME_BITS) + number; 0 = no frame, of which anything finite may
                come.
        """
        config, dtype, count = self.config, jnp.dtype(self.config.dtype), frames.shape[1]
        with jax.named_scope("vision"):
            if config.encoder_layers:
                x_BSD = Encoder(config, name="encoder")(frames)
                shape = config.encoder_width, config.feature_width
                normal = nn.initializers.normal(config.init_std)
                y_BSC = project(x_BSD, self.param("projector", normal, shape, jnp.float32).astype(dtype))
            else:
                y_BSC = in_a_row(frames.astype(dtype))
            if config.resampler_layers:
                y_BSC = Resampler(config, count, name="resampler")(_laid(y_BSC))
            y_BSC = RMSNorm(config.norm_eps, name="norm")(y_BSC)
            time_BIC = sinusoid(frame_ids_BI & ((1 << FRAME_BITS) - 1), config.feature_width)
            y_BIPC = by_frame(y_BSC, count) + time_BIC[:, :, None].astype(dtype)
            return _laid(in_a_row(y_BIPC))


def sinusoid(numbers_BI: jax.Array, width: int) -> jax.Array:
    """float32 [B, I, width]: sines, then cosines, of wavelengths from 2π to 20000π frames."""
    half = -(-width // 2)
    rates = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = numbers_BI[..., None].astype(jnp.float32) * rates
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)[..., :width]


def by_frame(x_BSD: jax.Array, frames: int) -> jax.Array:
    """[B, S, D] to [B, frames, S / frames, D]."""
    return rearrange(x_BSD, "B (I P) D -> B I P D", I=frames)


def in_a_row(x_BIPD: jax.Array) -> jax.Array:
    """Undoes `by_frame`."""
    return rearrange(x_BIPD, "B I P D -> B (I P) D")


def _fed(config, x_BSD):
    """x + ffn(norm(x)), with parameters of the module that calls."""
    h_BSD = RMSNorm(config.norm_eps, name="ffn_norm")(x_BSD)
    feed = FeedForward(
        config.encoder_ffn, config.ffn_chunk, jnp.dtype(config.dtype), config.init_std, name="ffn"
    )
    return _laid(x_BSD + feed(h_BSD))


def _laid(x_BSD):
    return constrain(x_BSD, BATCH, "seq", None)
