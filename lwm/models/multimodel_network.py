"""MultiModel as one network: modality nets, encoder, mixer and decoder, for rows of several kinds at once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.models.attention_block import Stream
from lwm.models.layers import Embedding, Head
from lwm.models.modality import AudioInput, CategoricalOutput, ImageInput
from lwm.models.multimodel_body import Decoder, Encoder, Traffic
from lwm.models.multimodel_rows import join, part
from lwm.models.multimodel_sizes import DECODED, MultiModelConfig
from lwm.parallel.sharding import BATCH, constrain

_PICTURES = ("classify", "caption")
Batch = Mapping[str, Mapping[str, jax.Array]]


class Outputs(NamedTuple):
    """Of all rows of a batch at once.

    Attributes:
      labels_BV: float32 logits of the rows of "classify", None without any.
      words_BTV: float32 logits of the rows of all other kinds, joined (`multimodel_rows`); None without any.
      traffic: at the encoder's and the decoder's experts, as far as there were any.
    """

    labels_BV: jax.Array | None
    words_BTV: jax.Array | None
    traffic: tuple[Traffic, ...]


class Network(nn.Module):
    """Its methods are those of `multimodel.MultiModel` on parameters."""

    config: MultiModelConfig

    def setup(self):
        config, D, dtype = self.config, self.config.width, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(config)
        if config.of_kind("classify", "caption"):
            self.image = ImageInput(config)
        if config.of_kind("classify"):
            self.categorical = CategoricalOutput(config)
        if config.of_kind("speech"):
            self.audio = AudioInput(config)
        if config.of_kind(*DECODED):
            self.words = Embedding(config.vocab_size, D, dtype, D**-0.5)
            self.commands = Embedding(len(config.tasks), D, dtype, D**-0.5)
            self.decoder = Decoder(config)
            self.head = Head(config.vocab_size, D, dtype, 0, D**-0.5)

    def __call__(self, batch: Batch, capacity_factor: float) -> Outputs:
        """All logits, with the targets of a row as the decoder's input."""
        encoded, traffic = self.encode(batch, capacity_factor)
        labels_BV = self.categorical(encoded["classify"].x_BTD) if "classify" in batch else None
        kinds = decoded_kinds(batch)
        if not kinds:
            return Outputs(labels_BV, None, traffic)
        targets_BT, task_B = (join([batch[kind][name] for kind in kinds]) for name in ("targets", "task"))
        targets = _unfilled(self._shifted(targets_BT, task_B), [batch[kind] for kind in kinds])
        x_BTD, found, _ = self.decoder(
            targets, _side_by_side([encoded[kind] for kind in kinds]), capacity_factor
        )
        with jax.named_scope("head"):
            return Outputs(labels_BV, self.head(x_BTD), (*traffic, *([found] if found else [])))

    def encode(self, batch: Batch, capacity_factor: float) -> tuple[dict[str, Stream], tuple[Traffic, ...]]:
        """The encoded input of each kind of rows; pictures of all kinds go through the image net together."""
        seen = [kind for kind in _PICTURES if kind in batch]
        streams = []
        if seen:
            pictures = self.image(join([batch[kind]["images"] for kind in seen]))
            streams.append(_unfilled(pictures, [batch[kind] for kind in seen]))
        if "speech" in batch:
            sounds = self.audio(batch["speech"]["waveform"], batch["speech"]["samples"])
            streams.append(_unfilled(sounds, [batch["speech"]]))
        if "translate" in batch:
            texts = self._read(batch["translate"]["source"])
            streams.append(_unfilled(texts, [batch["translate"]]))
        streams, traffic = self.encoder(streams, capacity_factor)
        rest = [kind for kind in ("speech", "translate") if kind in batch]
        encoded = dict(zip(rest, streams[-len(rest) :] if rest else (), strict=True))
        if seen:
            counts = [len(batch[kind]["images"]) for kind in seen]
            parts = zip(*(part(array, counts) for array in streams[0]), strict=True)
            encoded |= {kind: Stream(*own) for kind, own in zip(seen, parts, strict=True)}
        return encoded, (traffic,) if traffic else ()

    def classify(self, batch: Batch, capacity_factor: float) -> jax.Array:
        """float32 logits [B, classes] of the rows of "classify"."""
        return self.categorical(self.encode(batch, capacity_factor)[0]["classify"].x_BTD)

    def decode(self, x_BT: jax.Array, source: Stream, cache: Any, position: jax.Array, room: int):
        """(logits_BTV, cache) of a first call without a cache, T commands, or of one with it, one word a row.

        Every token has a place at its experts.
        """
        x_BTD = self._command(x_BT) if cache is None else self._embed(x_BT)
        targets = Stream(x_BTD, jnp.ones(x_BT.shape, bool))
        x_BTD, _, cache = self.decoder(targets, source, 0.0, cache, position, room)
        return self.head(x_BTD), cache

    def _read(self, source_BS):
        return Stream(self._embed(source_BS), source_BS > 0)

    def _shifted(self, targets_BT, task_B) -> Stream:
        """The command token, then all targets but the last; valid where there is something to predict."""
        x_BTD = jnp.concatenate([self._command(task_B[:, None]), self._embed(targets_BT[:, :-1])], axis=1)
        return Stream(constrain(x_BTD, BATCH), targets_BT > 0)

    def _embed(self, ids_BT):
        x_BTD = constrain(self.words(ids_BT), BATCH) * math.sqrt(self.config.width)
        return jnp.where(ids_BT[..., None] > 0, x_BTD, 0)

    def _command(self, task_BT):
        return constrain(self.commands(task_BT), BATCH) * math.sqrt(self.config.width)


def encoded_together(batch: Mapping[str, Any]) -> list[list[str]]:
    """The kinds of rows in a batch by the streams of the encoder, in their order."""
    streams = (_PICTURES, ("speech",), ("translate",))
    present = [[kind for kind in kinds if kind in batch] for kinds in streams]
    return [kinds for kinds in present if kinds]


def decoded_kinds(batch: Mapping[str, Any]) -> list[str]:
    """The kinds of rows in a batch that end in text, in the order in which they are joined."""
    return [kind for kind in DECODED if kind in batch]


def _unfilled(stream: Stream, rows: Sequence[Mapping[str, jax.Array]]) -> Stream:
    """The stream with rows of weight 0, which only fill up, as padding: they take no place at the experts."""
    if not all("weights" in own for own in rows):
        return stream
    counts_B1 = join([own["weights"] for own in rows])[:, None] > 0
    return stream._replace(valid_BT=stream.valid_BT & counts_B1)


def _side_by_side(sources: Sequence[Stream]) -> Stream:
    """Sources of unlike lengths as the rows of one, filled up with padding."""
    longest = max(source.valid_BT.shape[1] for source in sources)

    def filled(array):
        return jnp.pad(array, [(0, 0), (0, longest - array.shape[1]), *[(0, 0)] * (array.ndim - 2)])

    return Stream(*(join([filled(array) for array in arrays]) for arrays in zip(*sources, strict=True)))
