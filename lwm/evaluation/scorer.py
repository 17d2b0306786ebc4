"""A model as a function from a batch to the score of every target, on one device or on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather

from lwm.parallel.layout import zigzag_order
from lwm.parallel.sharding import batch_shardings

BESIDE = "frames", "features", "frame_ids"  # the text of a batch


class Scorer:
    """Scores batches in natural order; on a mesh with "seq" > 1 they travel in the ring's and come back.

    params: on the mesh already. mesh: None for one device. Several hosts give the same batches and get the
    same scores.
    """

    def __init__(self, model, params, mesh=None):
        self.model, self.params, self.mesh = model, params, mesh
        self.ring = 1 if mesh is None else mesh.shape["seq"]
        self._stripe = model.config.stripe
        self._nll = jax.jit(model.nll)
        self._greedy = jax.jit(functools.partial(_greedy, model))

    def nll(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """float32 [B, T], nats of every target; unspecified where the weight is 0."""
        T = batch["tokens"].shape[1]
        order = zigzag_order(T, self.ring, self._stripe)
        back = np.argsort(order)
        return self._apply(self._nll, self._in_order(batch, order))[:, back]

    def greedy(self, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(nll float32 [B, T], hit bool [B, T]: is the target the likeliest text token).

        For text targets; the head is read only where the weight is not 0, so that a long prompt costs its
        trunk and nothing for its vocabulary. What is not read is 0 and False.
        """
        B, T = batch["tokens"].shape
        order = zigzag_order(T, self.ring, self._stripe)
        read = [np.flatnonzero(weights_T[order] > 0) for weights_T in batch["weights"]]
        # A power of two, so that batches with a few more or less share a program.
        A = 1 << max(0, max(map(len, read)) - 1).bit_length()
        places_BA = np.zeros((B, A), np.int32)
        for row, places in zip(places_BA, read, strict=True):
            row[: len(places)] = places
        nll_BA, hit_BA = self._apply(self._greedy, self._in_order(batch, order), places_BA)
        nll_BT, hit_BT = np.zeros((B, T), np.float32), np.zeros((B, T), bool)
        for b, places in enumerate(read):
            nll_BT[b, order[places]] = nll_BA[b, : len(places)]
            hit_BT[b, order[places]] = hit_BA[b, : len(places)]
        return nll_BT, hit_BT

    def _in_order(self, batch, order):
        """Text in ring order; frames as they are, filled up with ones that are not there (id 0)."""

        def one(name, array):
            if name not in BESIDE:
                return array[:, order]
            fill = -array.shape[1] % self.ring
            return np.pad(array, [(0, 0), (0, fill)] + [(0, 0)] * (array.ndim - 2))

        return {name: one(name, array) for name, array in batch.items()}

    def _apply(self, function, batch, *arrays):
        """Scores of a batch in ring order, as numpy arrays."""
        if self.mesh is None:
            scores = function(self.params, batch, *arrays)
        else:
            with jax.set_mesh(self.mesh):
                placed = jax.device_put(batch, batch_shardings(batch, self.mesh))
                scores = function(self.params, placed, *arrays)
        return jax.tree.map(lambda score: np.asarray(process_allgather(score, tiled=True)), scores)


def _greedy(model, params, batch, places_BA):
    text_BAV = model.text_logits_at(params, batch, places_BA)
    targets_BA = jnp.take_along_axis(batch["targets"], places_BA, axis=1)
    nll_BA = -jnp.take_along_axis(jax.nn.log_softmax(text_BAV), targets_BA[..., None], axis=-1)[..., 0]
    return nll_BA, jnp.argmax(text_BAV, axis=-1) == targets_BA
