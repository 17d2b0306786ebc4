"""LWM: one causal transformer over text tokens and vision codes (2402.08268).

At every position the input is the text or the vision embedding of its token, and both heads can be read; the
batch says which one counts. The mesh comes from the context (`jax.set_mesh`); without one the same code runs
on one device. Sequences on a mesh with "seq" > 1 are in zigzag order (see parallel/layout.py).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from lwm.models.activations import cut, entering, everywhere, leaving, rematerialised, stacked, whole
from lwm.models.layers import Attention, Embedding, FeedForward, Head, RMSNorm, Spread
from lwm.models.sizes import SIZES, TransformerConfig, count_parameters
from lwm.ops.cached_attention import last_of_zigzag
from lwm.ops.rope import Scaling
from lwm.ops.slots import Cache, aligned, empty_cache, note_spread, note_whole
from lwm.parallel.mesh import axis_size

__all__ = ["LWM", "SIZES", "TransformerConfig", "count_parameters"]

# "seq" holds a slice of the parameters as "fsdp" does: who needs a ring needs the memory.
_SLICED = ("fsdp", "seq")


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x)); the carry of a scan over layers."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, carry, layer, positions_BT, segments_BT, spread):
        x_BTD, cache = carry
        x_BTD = checkpoint_name(x_BTD, "layer_input")
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        decoding = cache is not None and spread is None
        between, inside = (everywhere, everywhere) if decoding else (cut, whole)
        h_BTD = inside(RMSNorm(config.norm_eps, name="attention_norm")(between(x_BTD)))
        h_BTD, cache = Attention(
            config.heads,
            config.kv_heads,
            config.head_dim,
            rope_theta=config.rope_theta,
            block=config.attention_block,
            dtype=dtype,
            init_std=config.init_std,
            stripe=config.stripe,
            rope_scaling=_scaling(config),
            name="attention",
        )(h_BTD, positions_BT, segments_BT, cache, layer, spread)
        x_BTD = x_BTD + between(h_BTD)
        h_BTD = inside(RMSNorm(config.norm_eps, name="ffn_norm")(x_BTD))
        h_BTD = FeedForward(config.ffn, config.ffn_chunk, dtype, config.init_std, name="ffn")(
            h_BTD, decoding and axis_size("seq") > 1
        )
        return (between(x_BTD + between(h_BTD)), cache), None


def _scaling(config: TransformerConfig) -> Scaling | None:
    if config.rope_factor == 1:
        return None
    return Scaling(config.rope_factor, config.rope_low, config.rope_high, config.rope_original)


class Decoder(nn.Module):
    """Embeddings, a scan over the blocks, the final norm and the heads."""

    config: TransformerConfig

    def setup(self):
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        self.wte = Embedding(config.vocab_size, config.width, dtype, config.init_std)
        tied = self.wte if config.tied else None
        self.lm_head = Head(config.vocab_size, config.width, dtype, config.loss_chunk, config.init_std, tied)
        if config.vision_vocab_size:
            self.vte = Embedding(config.vision_vocab_size, config.width, dtype, config.init_std)
            self.vision_head = Head(
                config.vision_vocab_size, config.width, dtype, config.loss_chunk, config.init_std
            )
        self.layers = self.stack()
        self.final_norm = RMSNorm(config.norm_eps)

    def stack(self) -> nn.Module:
        """What lies between the embeddings and the final norm."""
        config, same = self.config, nn.broadcast
        return stacked(rematerialised(Block, config), config.layers, config, 0, same, same, same)(config)

    def embed(self, tokens_BT, is_vision_BT):
        """x_BTD = where(is_vision, vte[id], wte[id])."""
        with jax.named_scope("embed"):
            x_BTD = self.wte(tokens_BT)
            if self.config.vision_vocab_size:
                x_BTD = jnp.where(is_vision_BT[..., None], self.vte(tokens_BT), x_BTD)
            return x_BTD

    def trunk(self, x_BTD, positions_BT, segments_BT=None, cache=None, spread=None):
        """Blocks and final norm: hidden_BTD, and the cache with T more tokens if one is given."""
        decoding = cache is not None and spread is None
        x_BTD = entering(x_BTD, decoding=decoding)
        layers_L = jnp.arange(self.config.layers)
        (x_BTD, cache), _ = self.layers((x_BTD, cache), layers_L, positions_BT, segments_BT, spread)
        return self.final_norm(leaving(x_BTD, decoding=decoding)), cache

    def hidden(self, batch):
        """Final hidden_BTD of a batch."""
        x_BTD = self.embed(batch["tokens"], batch["is_vision"])
        return self.trunk(x_BTD, batch["positions"], batch["segments"])[0]

    def logits(self, hidden_BTD):
        """(text_logits_BTV, vision_logits_BTV or None), float32."""
        with jax.named_scope("heads"):
            text = self.lm_head(hidden_BTD)
            return text, self.vision_head(hidden_BTD) if self.config.vision_vocab_size else None

    def __call__(self, batch):
        return self.logits(self.hidden(batch))

    def nll(self, batch, text: bool = True, vision: bool = True):
        """(text nll_BT, vision nll_BT) of the targets, each None if not asked for or without a head."""
        hidden_BTD, targets_BT = self.hidden(batch), batch["targets"]
        with jax.named_scope("heads"):
            return (
                self.lm_head.nll(hidden_BTD, targets_BT) if text else None,
                self.vision_head.nll(hidden_BTD, targets_BT)
                if vision and self.config.vision_vocab_size
                else None,
            )

    def step(self, tokens_BT, is_vision_BT, positions_BT, cache, last=False):
        """Logits of T new tokens, or of the last, that every device of "seq" has; and the cache with them."""
        x_BTD, noted = self.embed(tokens_BT, is_vision_BT), note_whole(cache, positions_BT)
        hidden_BTD, cache = self.trunk(x_BTD, positions_BT, cache=noted)
        logits = self.logits(hidden_BTD[:, -1:] if last else hidden_BTD)
        return *logits, cache._replace(length=cache.length + tokens_BT.shape[1])

    def fill(self, tokens_BT, is_vision_BT, positions_BT, cache, spread):
        """Logits of the last of T new tokens in zigzag order over "seq", T = 1; and the cache with them."""
        cache = cache._replace(length=aligned(cache.length, axis_size("seq")))
        x_BTD, noted = self.embed(tokens_BT, is_vision_BT), note_spread(cache, positions_BT)
        hidden_BTD, cache = self.trunk(x_BTD, positions_BT, cache=noted, spread=spread)
        logits = self.logits(last_of_zigzag(hidden_BTD))
        return *logits, cache._replace(length=cache.length + tokens_BT.shape[1])


class LWM:
    """The model as the training loop, the samplers and the evaluations see it.

    A batch is the flat dict of BT arrays tokens, targets, weights, segments, positions, is_vision and
    targets_are_vision; parameters are a nested dict of float32 arrays, layers stacked along a leading L.
    """

    Config = TransformerConfig
    SIZES = SIZES
    PARTITION_RULES = (
        (r"(wte|vte)/embedding$", P("tensor", _SLICED)),
        (r"layers/attention/(wq|wk|wv)$", P(None, _SLICED, "tensor")),
        (r"layers/attention/wo$", P(None, "tensor", _SLICED)),
        (r"layers/ffn/(w1|w3)$", P(None, _SLICED, "tensor")),
        (r"layers/ffn/w2$", P(None, "tensor", _SLICED)),
        (r"layers/(attention_norm|ffn_norm)/scale$", P(None, None)),
        (r"final_norm/scale$", P(None)),
        (r"(lm_head|vision_head)/kernel$", P(_SLICED, "tensor")),
    )
    # For decoding: nothing is cut that would be gathered for every token. Tables, of which a token reads one
    # row, are whole everywhere, and heads are cut by width, so that "tensor" need not divide vocabularies.
    SERVING_RULES = (
        (r"(wte|vte)/embedding$", P(None, None)),
        (r"layers/attention/(wq|wk|wv)$", P(None, None, "tensor")),
        (r"layers/attention/wo$", P(None, "tensor", None)),
        (r"layers/ffn/(w1|w3)$", P(None, None, "tensor")),
        (r"layers/ffn/w2$", P(None, "tensor", None)),
        (r"layers/(attention_norm|ffn_norm)/scale$", P(None, None)),
        (r"final_norm/scale$", P(None)),
        (r"(lm_head|vision_head)/kernel$", P("tensor", None)),
    )

    def __init__(self, config: TransformerConfig):
        self.config = config
        self.network = Decoder(config)
        self.inputs = INPUTS

    def init(self, key, batch):
        """Random parameters; of the batch only the shapes are used, so `jax.ShapeDtypeStruct`s will do."""
        return self.network.lazy_init(key, {name: _shape(batch[name]) for name in self.inputs})["params"]

    def loss(self, params, batch, key):
        """L = a_text L_text + a_vision L_vision with L_m = (1/S) Σ w nll over the targets of modality m.

        S is the number of packed examples in the batch, so that with weights balanced per segment a packed
        batch has the loss and the gradient of the same examples padded (2402.08268, masked packing).

        Returns:
            loss, float32 scalar, and metrics: "loss", "denominator" (S), and for each modality m that is
            trained "m_loss" (L_m), "m_nll" (mean nats over tokens of weight > 0), "m_tokens" (their number).
        """
        del key  # nothing is random: there is no dropout
        weight = {"text": self.config.text_weight, "vision": self.config.vision_weight}
        text_BT, vision_BT = self.network.apply(
            {"params": params}, batch, text=weight["text"] > 0, vision=weight["vision"] > 0, method="nll"
        )
        vision_target_BT = batch["targets_are_vision"]
        segments = jnp.maximum(jnp.sum(jnp.max(batch["segments"], axis=1)), 1).astype(jnp.float32)
        total, metrics = jnp.float32(0), {"denominator": segments}
        for name, nll_BT, own_BT in (
            ("text", text_BT, ~vision_target_BT),
            ("vision", vision_BT, vision_target_BT),
        ):
            if nll_BT is None:
                continue
            weights_BT = jnp.where(own_BT, batch["weights"], 0.0)
            loss = jnp.sum(weights_BT * nll_BT) / segments
            tokens = jnp.sum(weights_BT > 0).astype(jnp.float32)
            metrics[f"{name}_loss"] = loss
            metrics[f"{name}_nll"] = jnp.sum(jnp.where(weights_BT > 0, nll_BT, 0.0)) / jnp.maximum(tokens, 1)
            metrics[f"{name}_tokens"] = tokens
            total += weight[name] * loss
        return total, metrics | {"loss": total}

    def logits(self, params, batch):
        """(text_logits_BTV, vision_logits_BTV or None) of a whole batch, float32."""
        return self.network.apply({"params": params}, batch)

    def nll(self, params, batch):
        """Float32 nll_BT in nats of every target, from the head of its own modality."""
        text_BT, vision_BT = self.network.apply({"params": params}, batch, method="nll")
        return text_BT if vision_BT is None else jnp.where(batch["targets_are_vision"], vision_BT, text_BT)

    def text_logits_at(self, params, batch, places_BA):
        """Float32 text logits [B, A, V] at A positions of each row: what answers need of a long prompt.

        places_BA: int32, indices along T in the order of the batch.
        """
        hidden_BTD = self.network.apply({"params": params}, batch, method="hidden")
        hidden_BAD = jnp.take_along_axis(hidden_BTD, places_BA[..., None], axis=1)
        return self.network.apply({"params": params}, hidden_BAD, method="logits")[0]

    def init_cache(self, batch_size: int, length: int) -> Cache:
        """An empty cache, `length` slots a row, in the compute type, on the mesh in context.

        Raises:
            ValueError: the mesh does not divide the rows or the key/value heads.
        """
        config = self.config
        return empty_cache(
            layers=config.layers,
            rows=batch_size,
            slots=length,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            dtype=config.dtype,
        )

    def decode(self, params, tokens_BT, is_vision_BT, positions_BT, cache: Cache):
        """Appends T ≥ 1 tokens (natural order) and reads both heads after each of them.

        Args:
            tokens_BT, is_vision_BT: the new tokens.
            positions_BT: int32 positions in their own row; -1 = padding, which sees nothing and is not seen,
                so that prompts of unequal length can share a batch, padded on either side. A token sees what
                has been appended to its row at positions up to its own.
            cache: from `init_cache` or an earlier call; T slots must be free (jit cannot check it).

        Returns:
            text_logits_BTV, vision_logits_BTV (None without a vision head), both float32, and the new cache.
        """
        return self._apply("step", params, tokens_BT, is_vision_BT, positions_BT, cache)

    def append(self, params, tokens_BT, is_vision_BT, positions_BT, cache: Cache):
        """As `decode`, with the logits of the last token alone: [B, 1, V]. For prompts on one device."""
        return self._apply("step", params, tokens_BT, is_vision_BT, positions_BT, cache, last=True)

    def fill(self, params, tokens_BT, is_vision_BT, positions_BT, cache: Cache, *, first: bool):
        """As `append`, for a chunk of prompts in zigzag order that is cut over "seq" of the mesh in context.

        T is a multiple of 2 x seq, positions grow along each row (padding, -1, comes first), and T slots must
        be free from the next number on that "seq" divides. first: the cache is still empty.
        """
        return self._apply("fill", params, tokens_BT, is_vision_BT, positions_BT, cache, spread=Spread(first))

    def _apply(self, method, params, *arguments, **options):
        return self.network.apply({"params": params}, *arguments, **options, method=method)


INPUTS = ("tokens", "is_vision", "positions", "segments")  # of a batch, what parameters are made for


def _shape(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
