"""The attention block of MultiModel (1706.05137, section 2.2 and figure 3).

    target + timing ── ConvStep 5 ── ConvStep 5, dilation 4 ── self-attention ── attention ── LN(target + ·)
                                                                                    │
    source ─────────────────────────────────────────── pointwise keys and values ───┘

All of it is causal in the target. Three things are not said in the paper: self-attention has a residual
connection and a norm of its own, queries have a projection, and the keys of the source carry the timing
signal as well, without which the encoder's convolutions alone would know of order. With without="attention"
all scores are equal: a position gets the mean of the source and of its own past, and nothing is searched.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.models.conv_blocks import ConvStep, dropped, layer_norm
from lwm.models.multimodel_sizes import MultiModelConfig
from lwm.ops.attention import attention
from lwm.ops.projection import project


class Stream(NamedTuple):
    """Sequences of one shape: x_BTD, and valid_BT bool, where they are not padding."""

    x_BTD: jax.Array
    valid_BT: jax.Array


class AttentionCache(NamedTuple):
    """What a block keeps between positions: histories of its convolutions, its keys and values, the source's.

    k_BTNH, v_BTNH have room for all positions; source_k_BSNH, source_v_BSNH are complete.
    """

    histories: tuple
    k_BTNH: jax.Array
    v_BTNH: jax.Array
    source_k_BSNH: jax.Array
    source_v_BSNH: jax.Array


class AttentionBlock(nn.Module):
    """room: positions for which a first call makes a cache; 0 = none is kept."""

    config: MultiModelConfig
    room: int = 0

    @nn.compact
    def __call__(self, x_BTD, source: Stream, cache: AttentionCache | None = None, position=0):
        """(out_BTD, cache or None).

        Args:
            x_BTD: the target so far; with a cache the one position after those that it has seen.
            source: what is attended to; with a cache only `valid_BT` is read.
            position: int32 scalar, of the first of x.
        """
        config, D = self.config, self.config.width
        with jax.named_scope("attention_block"):
            h_BTD = x_BTD + timing(position + jnp.arange(x_BTD.shape[1]), D).astype(x_BTD.dtype)
            before = cache.histories if cache else (None, None)
            h_BTD, first = ConvStep(config, 5, 1, True, name="conv_1")(h_BTD, None, before[0])
            h_BTD, second = ConvStep(config, 5, 4, True, name="conv_2")(h_BTD, None, before[1])
            own_BTD, keys = self._look_back(h_BTD, cache, position)
            h_BTD = layer_norm(config, "self_norm")(h_BTD + own_BTD)
            found_BTD, source_keys = self._look_at(h_BTD, source, cache)
            out_BTD = layer_norm(config, "norm")(x_BTD + dropped(self, config, found_BTD))
        if cache is None and not self.room:
            return out_BTD, None
        return out_BTD, AttentionCache((first, second), *keys, *source_keys)

    def _look_back(self, h_BTD, cache, position):
        q_BTNH, k_BTNH, v_BTNH = (self._heads(f"self_{name}", h_BTD) for name in ("wq", "wk", "wv"))
        q_BTNH = self._evened(q_BTNH)
        if cache is None:
            out_BTNH = attention(q_BTNH, k_BTNH, v_BTNH, causal=True)
            fill = ((0, 0), (0, max(self.room - k_BTNH.shape[1], 0)), (0, 0), (0, 0))
            keys = (jnp.pad(k_BTNH, fill), jnp.pad(v_BTNH, fill)) if self.room else ()
        else:
            at = (0, position, 0, 0)
            keys = (
                jax.lax.dynamic_update_slice(cache.k_BTNH, k_BTNH, at),
                jax.lax.dynamic_update_slice(cache.v_BTNH, v_BTNH, at),
            )
            past_BS = jnp.broadcast_to(jnp.arange(keys[0].shape[1]) <= position, keys[0].shape[:2])
            out_BTNH = _attend(q_BTNH, *keys, past_BS)
        return self._joined("self_wo", out_BTNH), keys

    def _look_at(self, h_BTD, source, cache):
        q_BTNH = self._evened(self._heads("wq", h_BTD))
        if cache is None:
            S, D = source.x_BTD.shape[1:]
            timed_BSD = source.x_BTD + timing(jnp.arange(S), D).astype(source.x_BTD.dtype)
            keys = self._heads("wk", timed_BSD), self._heads("wv", source.x_BTD)
        else:
            keys = cache.source_k_BSNH, cache.source_v_BSNH
        return self._joined("wo", _attend(q_BTNH, *keys, source.valid_BT)), keys

    def _heads(self, name, x_BTD):
        out_BTD = project(x_BTD, self._weight(name))
        return out_BTD.reshape(*x_BTD.shape[:2], self.config.heads, -1)

    def _joined(self, name, out_BTNH):
        return project(out_BTNH.reshape(*out_BTNH.shape[:2], -1), self._weight(name))

    def _weight(self, name):
        D = self.config.width
        weight = self.param(name, nn.initializers.normal(D**-0.5), (D, D), jnp.float32)
        return weight.astype(self.config.dtype)

    def _evened(self, q_BTNH):
        return jnp.zeros_like(q_BTNH) if self.config.without == "attention" else q_BTNH


def timing(positions_T: jax.Array, width: int) -> jax.Array:
    """float32 [T, width]: sine and cosine in turn, of angles t · 10 000^(-2d / width) (section 2.2)."""
    rates = 10_000.0 ** (-2 * jnp.arange(-(-width // 2), dtype=jnp.float32) / width)
    angles = positions_T[:, None].astype(jnp.float32) * rates
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(len(positions_T), -1)[:, :width]


def _attend(q_BTNH, k_BSNH, v_BSNH, seen_BS):
    every_BT = jnp.ones(q_BTNH.shape[:2], jnp.int32)
    return attention(
        q_BTNH,
        k_BSNH,
        v_BSNH,
        causal=False,
        q_segments_BT=every_BT,
        k_segments_BS=seen_BS.astype(jnp.int32),
    )
