"""A small text encoder for a diffusion decoder that is trained by itself: a bidirectional transformer.

It stands where Stable Diffusion has CLIP's, and is trained together with the U-Net. Blocks are made of the
layers of the language model (RMSNorm, SwiGLU); places are learned.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec as P

from lwm.models.layers import FeedForward, RMSNorm
from lwm.models.unet_blocks import Attention, laid
from lwm.models.unet_sizes import DecoderConfig

# Rules of the parameters under the name that the encoder has in a model, "text".
PARTITION_RULES = (
    (r"text/(tokens|places)$", P(None, "fsdp")),
    (r"text/block_\d+/attention/(q|k|v)/kernel$", P("fsdp", "tensor")),
    (r"text/block_\d+/attention/out/kernel$", P("tensor", "fsdp")),
    (r"text/block_\d+/ffn/(w1|w3)$", P("fsdp", "tensor")),
    (r"text/block_\d+/ffn/w2$", P("tensor", "fsdp")),
    (r"text/.*(norm/scale|bias)$", P()),
)


class TextEncoder(nn.Module):
    """Ids to the sequence that cross-attention looks at."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, tokens_BS: Array, there_BS: Array) -> Array:
        """condition_BSC in the type of the model, S at most `text_length`.

        Args:
            tokens_BS: integer ids; those outside the vocabulary read row 0.
            there_BS: bool, False = padding, which no other position sees.

        Raises:
            ValueError: shapes that do not go together, or a longer text.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        S, C = tokens_BS.shape[1], config.condition_width
        if config.text_length < S:
            raise ValueError(f"tokens: {S} positions; at most text_length = {config.text_length}")
        if there_BS.shape != tokens_BS.shape:
            raise ValueError(f"there_BS: shape {there_BS.shape}; needs {tokens_BS.shape}")
        normal = nn.initializers.normal(C**-0.5)
        tokens_VC = self.param("tokens", normal, (config.text_vocab_size, C), jnp.float32)
        places_SC = self.param("places", normal, (config.text_length, C), jnp.float32)
        known_BS = (tokens_BS >= 0) & (tokens_BS < config.text_vocab_size)
        x_BSC = jnp.take(tokens_VC, jnp.where(known_BS, tokens_BS, 0), axis=0) + places_SC[:S]
        x_BSC = laid(x_BSC.astype(dtype))
        with jax.named_scope("text"):
            for i in range(config.text_layers):
                x_BSC = laid(_Block(config, name=f"block_{i}")(x_BSC, there_BS))
            return RMSNorm(name="norm")(x_BSC)


class _Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x_BSC: Array, there_BS: Array) -> Array:
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        C = x_BSC.shape[-1]
        h_BSC = RMSNorm(name="attention_norm")(x_BSC)
        attention = Attention(C // config.text_heads, config.attention_block, dtype, name="attention")
        x_BSC = x_BSC + attention(h_BSC, h_BSC, there_BS)
        h_BSC = RMSNorm(name="ffn_norm")(x_BSC)
        return x_BSC + FeedForward(config.text_ffn, 0, dtype, C**-0.5, name="ffn")(h_BSC, whole=True)
