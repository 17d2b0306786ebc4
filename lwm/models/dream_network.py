"""A document of text and pictures through a DreamLLM's language model (2309.11499, section 3 and figure 2).

    text ids ───────────────────── embedding ─┐
    pictures ── visual encoder ── projector ──┼─► causal language model ─┬─► the next id
    dream queries ────────────────────────────┘                          └─► states of queries ── condition

The language model is that of `transformer.py`; its self-attention is the ring of the mesh in context.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.sharding import PartitionSpec as P

from lwm.models import visual_encoder
from lwm.models.codebook import unit
from lwm.models.condition import Condition
from lwm.models.dream_sizes import DreamConfig
from lwm.models.transformer import LWM, Decoder
from lwm.models.unet_blocks import Linear
from lwm.models.vision_encoder import in_a_row
from lwm.models.visual_encoder import VisualEncoder
from lwm.ops.places import collect, place

PARTITION_RULES = (
    *visual_encoder.PARTITION_RULES,
    *((f"language/{pattern}", spec) for pattern, spec in LWM.PARTITION_RULES),
    (r"(projector|condition)/kernel$", P("fsdp", "tensor")),
    (r"projector/bias$", P()),
    (r"queries$", P(None, "fsdp")),
    (r"contrast/(picture|text)/kernel$", P("fsdp", None)),
)


class Read(NamedTuple):
    """What a language model makes of a batch.

    Attributes:
        nll_BT: float32, nats of the targets; None if they were not asked for.
        dreams: a condition [B x (I + 1), Q, C] of each picture of a row, in order, and behind them, as the
            last of the row, of none; None if not asked for. A picture without queries is padding.
    """

    nll_BT: Array | None
    dreams: Condition | None


class DreamNetwork(nn.Module):
    """All of a DreamLLM but the diffusion decoder."""

    config: DreamConfig

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.language.dtype)
        D = config.language.width
        self.vision = VisualEncoder(config.vision)
        self.projector = Linear(D, dtype)
        self.language = Decoder(config.speaker)
        self.condition = Linear(config.decoder.condition_width, dtype, bias=False)
        if config.captioned:
            self.contrast = Contrast(config.contrast_width)
        self.queries = self.param("queries", nn.initializers.normal(0.02), (config.queries, D), jnp.float32)

    def __call__(self, batch: dict, text: bool = True, dreams: bool = True) -> Read:
        """Reads a batch, see `DreamLLM`; text, dreams: what of it is wanted."""
        at_BT = batch["places"]
        x_BTD = self.laid_out(batch["tokens"], self.seen(batch["frames"]), at_BT)
        hidden_BTD, _ = self.language.trunk(x_BTD, batch["positions"], batch["segments"])
        with jax.named_scope("heads"):
            nll_BT = self.language.lm_head.nll(hidden_BTD, batch["targets"]) if text else None
        pictures = batch["frames"].shape[1] + 1
        return Read(nll_BT, self.dreams(hidden_BTD, at_BT, pictures) if dreams else None)

    def everything(self, batch: dict) -> None:
        """Uses all parameters once, so that they are made."""
        self(batch)
        if self.config.captioned:
            C = self.config.decoder.condition_width
            self.compared(batch["frames"], jnp.zeros((1, 1, C)), jnp.ones((1, 1), bool))

    def compared(self, frames_BIRRC: Array, texts_NSC: Array, there_NS: Array) -> tuple[Array, Array, Array]:
        """Pictures [B x I, E] and captions [N, E] as vectors of length 1, and a scale for their products."""
        with jax.named_scope("contrast"):
            pictures_BIC = self.vision(frames_BIRRC, whole=True)
            count_N1 = jnp.maximum(jnp.sum(there_NS, axis=1, keepdims=True), 1)
            texts_NC = jnp.sum(jnp.where(there_NS[..., None], texts_NSC, 0), axis=1) / count_N1
            return self.contrast(pictures_BIC.reshape(-1, pictures_BIC.shape[-1]), texts_NC)

    def seen(self, frames_BIRRC: Array) -> Array:
        """Pictures as the language model sees them, [B, I x P, D]."""
        with jax.named_scope("vision"):
            return self.projector(in_a_row(self.vision(frames_BIRRC)))

    def laid_out(self, tokens_BT: Array, seen_BSD: Array, at_BT: Array) -> Array:
        """x_BTD: embeddings, and at their places patches and queries."""
        picture_BT, patch_BT, query_BT = self._parts(at_BT)
        x_BTD = self.language.embed(tokens_BT, None)
        with jax.named_scope("places"):
            seen_at_BT = jnp.where(patch_BT >= 0, picture_BT * self.config.vision.patches + patch_BT, -1)
            x_BTD = jnp.where(patch_BT[..., None] >= 0, place(seen_BSD, seen_at_BT), x_BTD)
            asked_BTD = jnp.take(self.queries.astype(x_BTD.dtype), jnp.maximum(query_BT, 0), axis=0)
            return jnp.where(query_BT[..., None] >= 0, asked_BTD, x_BTD)

    def dreams(self, hidden_BTD: Array, at_BT: Array, pictures: int) -> Condition:
        """The hidden states of queries as conditions of so many pictures a row; padding where none are."""
        Q = self.config.queries
        picture_BT, _, query_BT = self._parts(at_BT)
        to_BT = jnp.where(query_BT >= 0, picture_BT * Q + query_BT, -1)
        with jax.named_scope("dreams"):
            found_BMD = collect(hidden_BTD, to_BT, pictures * Q)
            there_BM1 = collect(jnp.ones((*to_BT.shape, 1), jnp.float32), to_BT, pictures * Q)
            vectors_BMC = self.condition(found_BMD)
            rows = vectors_BMC.shape[0] * pictures
            return Condition(vectors_BMC.reshape(rows, Q, -1), there_BM1.reshape(rows, Q) > 0)

    def _parts(self, at_BT: Array) -> tuple[Array, Array, Array]:
        """(picture, patch, query) at every position, each int32 BT; -1 = none."""
        span, P = self.config.span, self.config.vision.patches
        some_BT = at_BT > 0
        picture_BT, part_BT = jnp.divmod(jnp.maximum(at_BT - 1, 0), span)
        patch_BT = jnp.where(some_BT & (part_BT < P), part_BT, -1)
        query_BT = jnp.where(some_BT & (part_BT >= P), part_BT - P, -1)
        return jnp.where(some_BT, picture_BT, -1), patch_BT, query_BT


class Contrast(nn.Module):
    """What compares pictures with captions (CLIP, 2103.00020, section 2.3 and figure 3)."""

    width: int

    @nn.compact
    def __call__(self, pictures_NC: Array, texts_NC: Array) -> tuple[Array, Array, Array]:
        """Vectors of length 1, float32 [N, width] each, and the scale of their products, at most 100."""

        def projected(name, x_NC):
            return unit(nn.Dense(self.width, use_bias=False, name=name)(x_NC.astype(jnp.float32)))

        scale = self.param("scale", nn.initializers.constant(jnp.log(1 / 0.07)), (), jnp.float32)
        return (
            projected("picture", pictures_NC),
            projected("text", texts_NC),
            jnp.exp(jnp.minimum(scale, jnp.log(100.0))),
        )
