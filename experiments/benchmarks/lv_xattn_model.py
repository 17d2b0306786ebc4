"""The tiny cross-attention model end to end, as `lv_xattn_network.py` compares it by what travels in it.

One row of text and one clip that all of it sees, in stored features; the parameters are cut over the hosts as
in training. "forward" is the loss, "both" the loss and the gradients of all parameters.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lwm.models.cross_attention import SIZES, CrossAttentionLM
from lwm.ops.masks import FRAME_BITS
from lwm.parallel.mesh import make_mesh
from lwm.parallel.sharding import batch_shardings
from lwm.training.state import lay_out, param_shapes, shardings_of

# Features instead of an encoder, which sends nothing and would be the same for all; nothing is made twice.
TINY = SIZES["tiny"] | dict(encoder_layers=0, recompute=False, media="all")


class Model:
    """A whole step without the optimizer, with random parameters.

    Attributes:
      asked: "T", tokens, and "S", tokens of video, of which a frame has as many as SIZES says.
    """

    def __init__(self, asked: dict):
        self.asked = asked
        self.mesh = make_mesh(seq=-1)
        batch = self._batch()
        self.layout = batch_shardings(batch, self.mesh)
        with jax.set_mesh(self.mesh):
            self.batch = {
                name: jax.make_array_from_callback(x.shape, self.layout[name], lambda index, x=x: x[index])
                for name, x in batch.items()
            }
            self.shapes = param_shapes(make_model("rotate_queries"), self.batch, self.mesh)

    def compile(self, method: str, direction: str):
        """A program of parameters and a batch."""
        model, key = make_model(method), jax.random.key(0)

        def loss(params, batch):
            return model.loss(params, batch, key)[0]

        def both(params, batch):
            value, grads = jax.value_and_grad(loss)(params, batch)
            return value, lay_out(model.PARTITION_RULES, grads)

        with jax.set_mesh(self.mesh):
            step = jax.jit(loss if direction == "forward" else both)
            return step.lower(self.shapes, self.batch).compile()

    def arrays(self, direction: str) -> list:
        """What a program takes, whichever the direction."""
        model, layout = make_model("rotate_queries"), shardings_of(self.shapes)
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in self._batch().items()}
        with jax.set_mesh(None):
            params = jax.jit(lambda key: model.init(key, zeros), out_shardings=layout)(jax.random.key(0))
        return [params, self.batch]

    def _batch(self) -> dict[str, np.ndarray]:
        rng, T, P = np.random.default_rng(0), self.asked["T"], TINY["frame_tokens"]
        frames = self.asked["S"] // P
        tokens = rng.integers(0, TINY["vocab_size"], (1, T + 1)).astype(np.int32)
        row = (1, T)
        return {
            "tokens": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "weights": np.full(row, 1 / T, np.float32),
            "segments": np.ones(row, np.int32),
            "positions": np.arange(T, dtype=np.int32)[None],
            "is_vision": np.zeros(row, bool),
            "targets_are_vision": np.zeros(row, bool),
            "features": rng.standard_normal((1, frames, P, TINY["feature_width"]), np.float32),
            "frame_ids": (1 << FRAME_BITS) + np.arange(1, frames + 1, dtype=np.int32)[None],
            "media": np.full(row, (1 << FRAME_BITS) + frames, np.int32),
        }


def make_model(way: str) -> CrossAttentionLM:
    """The model, with what travels as an argument."""
    return CrossAttentionLM(CrossAttentionLM.Config(**TINY, way=way))
