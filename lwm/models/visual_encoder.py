"""The eyes of a DreamLLM (2309.11499): a vision transformer of which the last layer but one is seen.

    pictures ─► patches, class token ─► all blocks but the last ─► patches of a picture, for a language model
                                                   └─► last block ─► norm ─► class token, one vector a picture

The last block belongs to what an encoder is trained for by itself (to tell which text a picture goes with,
2103.00020); a layer below it the patches still say what is where. Blocks are those of `vision_encoder.py`.
"""

import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec as P

from lwm.models.activations import rematerialised, stacked
from lwm.models.dream_sizes import VisualConfig
from lwm.models.layers import RMSNorm
from lwm.models.vision_encoder import EncoderBlock, by_frame, in_a_row
from lwm.ops.projection import project
from lwm.parallel.sharding import BATCH, constrain

PARTITION_RULES = (
    (r"vision/blocks/attention/(wq|wk|wv)$", P(None, "fsdp", "tensor")),
    (r"vision/blocks/attention/wo$", P(None, "tensor", "fsdp")),
    (r"vision/blocks/ffn/(w1|w3)$", P(None, "fsdp", "tensor")),
    (r"vision/blocks/ffn/w2$", P(None, "tensor", "fsdp")),
    (r"vision/last/attention/(wq|wk|wv)$", P("fsdp", "tensor")),
    (r"vision/last/attention/wo$", P("tensor", "fsdp")),
    (r"vision/last/ffn/(w1|w3)$", P("fsdp", "tensor")),
    (r"vision/last/ffn/w2$", P("tensor", "fsdp")),
    (r"vision/(patches|positions)$", P(None, "fsdp")),
    (r"vision/.*norm/scale$", P()),
)


class VisualEncoder(nn.Module):
    """Pictures, several in a row, each seen by itself."""

    config: VisualConfig

    @nn.compact
    def __call__(self, frames_BIRRC: Array, whole: bool = False) -> Array:
        """Patches [B, I, P, C] of the last layer but one; whole: the class token behind the last, [B, I, C].

        Args:
            frames_BIRRC: uint8; I is a multiple of the devices on "seq", over which pictures are cut.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        normal, D = nn.initializers.normal(config.init_std), config.encoder_width
        frames = frames_BIRRC.shape[1]
        patches = rearrange(
            frames_BIRRC, "B I (h p) (w q) C -> B (I h w) (p q C)", p=config.patch, q=config.patch
        )
        table = self.param("patches", normal, (patches.shape[-1], D), jnp.float32).astype(dtype)
        positions = self.param("positions", normal, (config.patches + 1, D), jnp.float32).astype(dtype)
        x_BIPD = by_frame(project(patches.astype(dtype) / 127.5 - 1, table), frames)
        # The class token, the last, is its position and nothing else.
        x_BIPD = jnp.pad(x_BIPD, ((0, 0), (0, 0), (0, 1), (0, 0))) + positions
        x_BSD = constrain(in_a_row(x_BIPD), BATCH, "seq", None)
        block = rematerialised(EncoderBlock, config)
        x_BSD, _ = stacked(block, config.encoder_layers - 1, config)(config, frames, name="blocks")(x_BSD)
        if not whole:
            return by_frame(x_BSD, frames)[:, :, : config.patches]
        x_BSD, _ = block(config, frames, name="last")(x_BSD)
        return RMSNorm(config.norm_eps, name="norm")(by_frame(x_BSD, frames)[:, :, config.patches])
