"""The language model of a DreamLLM as samplers see it: what it reads may be text, or vectors beside it.

Where `is_vision`, a token's id is the row of a table, which `beside` puts to the parameters: the patches of a
picture, or dream queries. They are read like words, into the same cache, and never said.
"""

import jax.numpy as jnp
from jax import Array

from lwm.models.sizes import TransformerConfig
from lwm.models.transformer import LWM, Decoder
from lwm.ops.places import place
from lwm.ops.slots import Cache, note_whole

_TABLE = "vectors"


def beside(params: dict, vectors_BMD: Array) -> dict:
    """Parameters of a `Speaker` with a table for each row, for any of its calls."""
    return params | {_TABLE: vectors_BMD}


class ReadingDecoder(Decoder):
    """`Decoder` that reads vectors as well."""

    def embed(self, tokens_BT, is_vision_BT):
        x_BTD = super().embed(tokens_BT, None)
        if not self.has_variable(_TABLE, "table"):
            return x_BTD
        vectors_BMD = self.get_variable(_TABLE, "table").astype(x_BTD.dtype)
        given_BTD = place(vectors_BMD, jnp.where(is_vision_BT, tokens_BT, -1))
        return jnp.where(is_vision_BT[..., None], given_BTD, x_BTD)

    def states(self, tokens_BT, is_vision_BT, positions_BT, cache):
        """As `step`, but the final hidden_BTD of all tokens and no logits."""
        x_BTD, noted = self.embed(tokens_BT, is_vision_BT), note_whole(cache, positions_BT)
        hidden_BTD, cache = self.trunk(x_BTD, positions_BT, cache=noted)
        return hidden_BTD, cache._replace(length=cache.length + tokens_BT.shape[1])


class Speaker(LWM):
    """LWM with the parameters of a DreamLLM's "language", alone or with vectors `beside` them."""

    def __init__(self, config: TransformerConfig):
        super().__init__(config)
        self.network = ReadingDecoder(config)

    def states(
        self, params: dict, tokens_BT: Array, is_vision_BT: Array, positions_BT: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        """Appends T tokens as `decode` does: their final hidden_BTD, and the new cache."""
        return self._apply("states", params, tokens_BT, is_vision_BT, positions_BT, cache)

    def _apply(self, method, params, *arguments, **options):
        variables = {"params": {name: own for name, own in params.items() if name != _TABLE}}
        if _TABLE in params:
            variables[_TABLE] = {"table": params[_TABLE]}
        return self.network.apply(variables, *arguments, **options, method=method)
