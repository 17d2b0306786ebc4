"""A model as a function from a batch to the score of every target, on one device or on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from lwm.parallel.layout import natural_order, zigzag_order
from lwm.parallel.sharding import batch_shardings


class Scorer:
    """Scores batches in natural order; on a mesh with "seq" > 1 they travel in zigzag order and come back.

    params: on the mesh already. mesh: None for one device. Several hosts give the same batches and get the
    same scores.
    """

    def __init__(self, model, params, mesh=None):
        self.params, self.mesh = params, mesh
        self.ring = 1 if mesh is None else mesh.shape["seq"]
        self._nll = jax.jit(model.nll)
        self._greedy = jax.jit(functools.partial(_greedy, model))

    def nll(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """float32 [B, T], nats of every target; unspecified where the weight is 0."""
        return self._run(self._nll, batch)

    def greedy(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(nll float32 [B, T], hit bool [B, T]: is the target the likeliest text token).

        For batches of text; holds whole logits, where `nll` may go chunk by chunk.
        """
        return self._run(self._greedy, batch)

    def _run(self, function, batch):
        T = batch["tokens"].shape[1]
        order, back = zigzag_order(T, self.ring), natural_order(T, self.ring)
        batch = {name: array[:, order] for name, array in batch.items()}
        if self.mesh is None:
            scores = function(self.params, batch)
        else:
            with jax.set_mesh(self.mesh):
                scores = function(self.params, jax.device_put(batch, batch_shardings(batch, self.mesh)))
        return jax.tree.map(
            lambda score_BT: np.asarray(process_allgather(score_BT, tiled=True))[:, back], scores
        )


def _greedy(model, params, batch):
    text_BTV, _ = model.logits(params, batch)
    nll_BT = -jnp.take_along_axis(jax.nn.log_softmax(text_BTV), batch["targets"][..., None], axis=-1)[..., 0]
    return nll_BT, jnp.argmax(text_BTV, axis=-1) == batch["targets"]
