"""Text word by word from a MultiModel: convolutions keep their last inputs, attention its keys and values."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lwm.models.attention_block import Stream


class Decoding(NamedTuple):
    """Where rows stand.

    Attributes:
        seen_BS: bool, which positions of the encoded input are none of padding.
        position: int32 scalar, words that each row has behind it, the command among them.
        single: caches of the mixer, rows first. stacked: of stacked blocks, layers first, then rows.
    """

    seen_BS: jax.Array
    position: jax.Array
    single: Any
    stacked: Any

    def take(self, rows: jax.Array) -> "Decoding":
        """These rows, which may come several times or not at all: the beams that go on."""
        return Decoding(
            self.seen_BS[rows],
            self.position,
            jax.tree.map(lambda array: array[rows], self.single),
            jax.tree.map(lambda array: array[:, rows], self.stacked),
        )


def begin(network, params: dict, source: Stream, task_B: jax.Array, room: int) -> tuple[jax.Array, Decoding]:
    """See `multimodel.MultiModel.begin`."""
    logits_BTV, cache = network.apply(
        {"params": params}, task_B[:, None], source, None, 0, room, method="decode"
    )
    return logits_BTV[:, 0], _decoding(source.valid_BT, jnp.int32(1), cache)


def step(network, params: dict, decoding: Decoding, words_B: jax.Array) -> tuple[jax.Array, Decoding]:
    """See `multimodel.MultiModel.step`."""
    # Keys and values of the source are in the cache; of it only the padding is read.
    source = Stream(jnp.zeros((*decoding.seen_BS.shape, 0)), decoding.seen_BS)
    own, merge = decoding.single
    cache = own, merge, *decoding.stacked
    logits_BTV, cache = network.apply(
        {"params": params}, words_B[:, None], source, cache, decoding.position, 0, method="decode"
    )
    return logits_BTV[:, 0], _decoding(decoding.seen_BS, decoding.position + 1, cache)


def _decoding(seen_BS, position, cache) -> Decoding:
    own, merge, mixed, front, back = cache
    return Decoding(seen_BS, position, (own, merge), (mixed, front, back))
