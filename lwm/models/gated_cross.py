"""A gated cross-attention layer (Flamingo, 2204.14198, section 3.1.2 and figure 4).

    x + tanh(a) · attention(norm(x), y) W_O,  then  x + tanh(b) · ffn(norm(x))

Both gates start at 0: the language model begins as it was, and takes in what it sees as the gates open. The
layer is in two halves because they keep different things for the backward pass. `CrossAttention` decides with
`config.recompute`: every layer looks at the same y, so that with it a layer keeps x, what it found and the
log-sum-exps, and makes queries, keys and values again (LV-XAttn, 2502.02406, section 4.3); without it, those
of S positions as well. `GatedMerge`, whose size is that of the text, follows `config.remat` as all blocks do.

Recomputation works for every way of bringing queries and keys together: the ring of keys too would else keep
them, and comparisons would compare two things at once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.models.activations import cut, everywhere, rematerialised, whole
from lwm.models.cross_sizes import CrossAttentionConfig
from lwm.models.layers import FeedForward, RMSNorm
from lwm.ops.clip_attention import attend_clip
from lwm.ops.lv_xattn import NAMES, lv_xattn, lv_xattn_projected
from lwm.ops.masks import FRAME_BITS
from lwm.ops.projection import project
from lwm.ops.streamed_keys import project as project_to_heads
from lwm.ops.xattn_traffic import choose
from lwm.parallel.mesh import axis_size


class Sight(NamedTuple):
    """What all layers of a forward pass look at, and who sees what of it.

    y_BSC: features. q_ids_BT, k_ids_BS: int32, 0 = sees nothing, is not there. With media="earlier" they are
    (clip << FRAME_BITS) + frame, and a position sees the frames of its clip up to its own; with "all" they
    number clips from 1, and it sees those of its own.
    """

    y_BSC: jax.Array
    q_ids_BT: jax.Array
    k_ids_BS: jax.Array


class CrossAttention(nn.Module):
    """What each position of a text finds in frames: attention by heads, before it is put together."""

    config: CrossAttentionConfig

    @nn.compact
    def __call__(self, x_BTD, sight, layer, positions_BT, spread):
        """out_BTNH in the type of the model.

        Args:
            x_BTD: activations between layers.
            sight: a `Sight`; a `Clip` that was watched before, to decode; None = nothing to see.
            layer: int32 scalar, our number among the cross-attention layers of a `Clip`.
            positions_BT, spread: as for `layers.Attention`; read with a `Clip` only.
        """
        config, D = self.config, x_BTD.shape[-1]
        N, K, H, C = config.heads, config.kv_heads, config.head_dim, config.feature_width
        normal, dtype = nn.initializers.normal(config.init_std), jnp.dtype(config.dtype)
        scale = RMSNorm(config.norm_eps, name="norm")
        wq_DNH = self.param("wq", normal, (D, N, H), jnp.float32)
        wk_CKH = self.param("wk", normal, (C, K, H), jnp.float32)
        wv_CKH = self.param("wv", normal, (C, K, H), jnp.float32)
        if isinstance(sight, Sight):
            with jax.named_scope("cross"):
                return self._look(whole(scale(x_BTD)), sight, wq_DNH, wk_CKH, wv_CKH)
        if sight is None:
            return jnp.zeros((*x_BTD.shape[:2], N, H), dtype)
        h_BTD = (everywhere if spread is None else whole)(scale(x_BTD))
        with jax.named_scope("clip"):
            q_BTNH = project_to_heads(h_BTD, wq_DNH)
            options = {"spread": spread is not None, "block": config.attention_block}
            return attend_clip(q_BTNH, positions_BT, sight, layer, **options)

    def _look(self, x_BTD, sight, wq_DNH, wk_CKH, wv_CKH):
        config, (y_BSC, q_ids_BT, k_ids_BS) = self.config, sight
        # Tied to x, ids are none of the constants of the scan over layers, see `layers.Attention`.
        x_BTD, q_ids_BT = jax.lax.optimization_barrier((x_BTD, q_ids_BT))
        ordered = config.media == "earlier"
        options = {"ordered": ordered, "frame_bits": FRAME_BITS * ordered, "block": config.attention_block}
        way = chosen_way(config, x_BTD.shape, y_BSC.shape[1])
        if config.recompute and way == "rotate_queries":
            inputs = x_BTD, y_BSC, wq_DNH, wk_CKH, wv_CKH, q_ids_BT, k_ids_BS
            return lv_xattn_projected(*inputs, key_block=config.key_block, **options)
        q_BTNH = project_to_heads(x_BTD, wq_DNH)
        k_BSKH, v_BSKH = (project_to_heads(y_BSC, w) for w in (wk_CKH, wv_CKH))
        return lv_xattn(q_BTNH, k_BSKH, v_BSKH, q_ids_BT, k_ids_BS, way=way, **options)


class GatedMerge(nn.Module):
    """What was found goes into the text, then a feed-forward layer, each behind its gate.

    decoding: every device of "seq" has the same few tokens.
    """

    config: CrossAttentionConfig
    decoding: bool

    @nn.compact
    def __call__(self, x_BTD, out_BTNH):
        config, dtype, (B, T, D) = self.config, jnp.dtype(self.config.dtype), x_BTD.shape
        between, inside = (everywhere, everywhere) if self.decoding else (cut, whole)
        wo_NHD = self.param(
            "wo", nn.initializers.normal(config.init_std), (*out_BTNH.shape[2:], D), jnp.float32
        )
        with jax.named_scope("out"):
            h_BTD = project(out_BTNH.reshape(B, T, -1), wo_NHD.reshape(-1, D).astype(dtype))
        x_BTD = x_BTD + self._gate("attention_gate") * between(h_BTD)
        if config.cross_ffn:
            h_BTD = inside(RMSNorm(config.norm_eps, name="ffn_norm")(x_BTD))
            feed = FeedForward(config.cross_ffn, config.ffn_chunk, dtype, config.init_std, name="ffn")
            h_BTD = feed(h_BTD, self.decoding and axis_size("seq") > 1)
            x_BTD = x_BTD + self._gate("ffn_gate") * between(h_BTD)
        return between(x_BTD)

    def _gate(self, name):
        gate = self.param(name, nn.initializers.zeros, (), jnp.float32)
        return jnp.tanh(gate).astype(self.config.dtype)


class GatedCross(nn.Module):
    """The whole layer: x_BTD to x_BTD."""

    config: CrossAttentionConfig

    @nn.compact
    def __call__(self, x_BTD, sight, layer, positions_BT, spread):
        config = self.config
        attention = CrossAttention
        if config.recompute:
            policy = jax.checkpoint_policies.save_only_these_names(*NAMES)
            attention = nn.remat(CrossAttention, policy=policy, prevent_cse=not config.scan)
        out_BTNH = attention(config, name="attention")(x_BTD, sight, layer, positions_BT, spread)
        decoding = not isinstance(sight, Sight) and spread is None
        return rematerialised(GatedMerge, config)(config, decoding, name="merge")(x_BTD, out_BTNH)


def chosen_way(config: CrossAttentionConfig, x_shape: tuple[int, int, int], S: int) -> str:
    """`config.way`, or the one of `xattn_ways.WAYS` that sends least in training on the mesh in context."""
    if config.way != "auto":
        return config.way
    (B, T, _), tensor = x_shape, axis_size("tensor")
    return choose(
        B=-(-B // (axis_size("data") * axis_size("fsdp"))),
        T=T,
        S=S,
        N=-(-config.heads // tensor),
        K=-(-config.kv_heads // tensor),
        H=config.head_dim,
        n=axis_size("seq"),
        dtype=config.dtype,
    ).way
