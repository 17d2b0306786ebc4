"""The body of MultiModel that all tasks share (1706.05137, section 2.3): encoder, mixer, decoder.

    encoder   2 convolutional blocks ── experts ── 4 convolutional blocks
    mixer     attention of the targets so far to the encoded input, joined with them, 2 causal blocks
    decoder   2 x (causal block, attention) ── experts ── 2 x (causal block, attention)

The encoder takes several streams of unlike lengths; their tokens meet at the experts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.models.attention_block import AttentionBlock, Stream
from lwm.models.conv_blocks import ConvBlock, ConvStep, dropped, layer_norm
from lwm.models.multimodel_sizes import MultiModelConfig
from lwm.ops.moe import Routes, cv_squared, noisy_top_k
from lwm.ops.moe_dispatch import mix
from lwm.ops.projection import project
from lwm.parallel.sharding import BATCH, constrain


class Traffic(NamedTuple):
    """What went on at a mixture of experts: float32 scalars, and the choices of each stream's tokens.

    Attributes:
        importance, load: squared coefficients of variation. sent, dropped: choices of tokens, and those of
            them for which the expert had no place.
        routes: `Routes` of each stream.
    """

    importance: jax.Array
    load: jax.Array
    sent: jax.Array
    dropped: jax.Array
    routes: tuple[Routes, ...]


class ExpertLayer(nn.Module):
    """LN(x + experts(x)) of streams, which keep their padding.

    With without="experts" a dense layer of k · F units has their place, and there is no traffic.
    """

    config: MultiModelConfig

    @nn.compact
    def __call__(
        self, streams: Sequence[Stream], capacity_factor: float
    ) -> tuple[list[Stream], Traffic | None]:
        config, D, E, F = self.config, self.config.width, self.config.experts, self.config.expert_ffn
        xs = [stream.x_BTD for stream in streams]
        into, out_of = nn.initializers.normal(D**-0.5), nn.initializers.normal(F**-0.5)
        if config.without == "experts":
            w1 = self.param("w1", into, (D, config.top_k * F), jnp.float32).astype(config.dtype)
            w2 = self.param("w2", nn.initializers.normal((config.top_k * F) ** -0.5), (w1.shape[1], D))
            outs = [project(nn.relu(project(x, w1)), w2.astype(config.dtype)) for x in xs]
            return self._added(streams, outs), None
        gate_DE = self.param("gate", nn.initializers.zeros, (D, E), jnp.float32)
        noise_DE = self.param("noise", nn.initializers.zeros, (D, E), jnp.float32)
        w1_EDF = self.param("w1", into, (E, D, F), jnp.float32)
        w2_EFD = self.param("w2", out_of, (E, F, D), jnp.float32)
        noisy = self.has_rng("noise")
        routes = [
            noisy_top_k(
                stream.x_BTD,
                gate_DE,
                noise_DE,
                stream.valid_BT,
                k=config.top_k,
                key=self.make_rng("noise") if noisy else None,
            )
            for stream in streams
        ]
        choices, gates = [own.experts for own in routes], [own.gates for own in routes]
        outs, kept = mix(xs, choices, gates, w1_EDF, w2_EFD, capacity_factor=capacity_factor)
        sent = config.top_k * sum(jnp.sum(stream.valid_BT) for stream in streams)
        traffic = Traffic(
            cv_squared(sum(own.importance_E for own in routes)),
            cv_squared(sum(own.load_E for own in routes)),
            sent.astype(jnp.float32),
            (sum(jnp.sum(own > 0) for own in gates) - sum(jnp.sum(own) for own in kept)).astype(jnp.float32),
            tuple(routes),
        )
        return self._added(streams, outs), traffic

    def _added(self, streams, outs):
        norm = layer_norm(self.config, "norm")
        return [
            stream._replace(x_BTD=norm(stream.x_BTD + dropped(self, self.config, out)))
            for stream, out in zip(streams, outs, strict=True)
        ]


class DecoderLayer(nn.Module):
    """A causal block, then attention to the source; the carry of a scan over layers."""

    config: MultiModelConfig
    room: int

    @nn.compact
    def __call__(self, x_BTD, source, cache, position):
        histories, own = cache or ((None,) * 4, None)
        x_BTD, histories = ConvBlock(self.config, causal=True, name="conv")(x_BTD, None, histories)
        x_BTD, own = AttentionBlock(self.config, self.room, name="attention")(x_BTD, source, own, position)
        return constrain(x_BTD, BATCH), (histories, own) if own else None


class Encoder(nn.Module):
    """Streams to streams of the same shapes, and the traffic between them."""

    config: MultiModelConfig

    @nn.compact
    def __call__(self, streams: Sequence[Stream], capacity_factor: float):
        front, back = (_stack(ConvBlock, count)(self.config, name=name) for count, name in _ENCODER)
        streams = [_through(front, stream) for stream in streams]
        streams, traffic = ExpertLayer(self.config, name="experts")(streams, capacity_factor)
        return [_through(back, stream) for stream in streams], traffic


class Decoder(nn.Module):
    """Mixer and decoder."""

    config: MultiModelConfig

    @nn.compact
    def __call__(
        self, targets: Stream, source: Stream, capacity_factor: float, cache=None, position=0, room=0
    ):
        """(x_BTD, traffic, cache or None).

        Args:
            targets: embedded, the command token first; with a cache one position of them.
            source: the encoded input.
            cache: as it was returned before. position: int32 scalar, of the first target.
            room: positions for which a call without a cache makes one; 0 = none is kept.
        """
        config, x_BTD = self.config, targets.x_BTD
        own, merge, mixed, front, back = cache or (None, None, None, None, None)
        attended_BTD, own = AttentionBlock(config, room, name="mixer")(x_BTD, source, own, position)
        with jax.named_scope("mixer"):
            both = jnp.concatenate([attended_BTD, x_BTD], axis=-1)
            x_BTD, merge = ConvStep(config, 5, 1, True, name="merge")(both, None, merge)
            blocks = _stack(ConvBlock, 2)(config, causal=True, name="mixed")
            x_BTD, mixed = blocks(x_BTD, None, mixed or (None,) * 4)
        layers = [_layers(2)(config, room, name=name) for name in ("front", "back")]
        x_BTD, front = layers[0](x_BTD, source, front, position)
        (stream,), traffic = ExpertLayer(config, name="experts")(
            [targets._replace(x_BTD=x_BTD)], capacity_factor
        )
        x_BTD, back = layers[1](stream.x_BTD, source, back, position)
        return x_BTD, traffic, (own, merge, mixed, front, back) if room or cache else None


_ENCODER = ((2, "front"), (4, "back"))


def _through(blocks, stream: Stream) -> Stream:
    x_BTD, _ = blocks(stream.x_BTD, stream.valid_BT, (None,) * 4)
    return stream._replace(x_BTD=constrain(x_BTD, BATCH))


def _stack(block, length: int):
    """Blocks one after another, their parameters and histories stacked along a leading axis."""
    return _scan(block, length, (nn.broadcast, 0))


def _layers(length: int):
    return _scan(DecoderLayer, length, (nn.broadcast, 0, nn.broadcast))


def _scan(block, length, in_axes):
    rngs = {"params": True, "dropout": True, "noise": True}
    return nn.scan(block, variable_axes={"params": 0}, split_rngs=rngs, in_axes=in_axes, length=length)
