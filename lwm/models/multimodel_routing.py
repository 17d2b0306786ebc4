"""Which experts the rows of a batch were sent to, for questions about tasks and experts."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lwm.models.multimodel_network import Batch, Outputs, decoded_kinds, encoded_together
from lwm.models.multimodel_rows import join
from lwm.ops.moe import Routes


class Choices(NamedTuple):
    """task_B: int32, of each row. counts_BE: float32, how many of its tokens chose each expert."""

    task_B: jax.Array
    counts_BE: jax.Array


def expert_choices(outputs: Outputs, batch: Batch, experts: int) -> dict[str, Choices]:
    """Choices at the mixtures "encoder" and, if a kind of rows ends in text, "decoder".

    Rows that fill up chose nothing. Empty for a model without experts.

    Args:
        outputs: of `MultiModel.outputs` for the batch. experts: E.
    """
    groups = {"encoder": encoded_together(batch), "decoder": [decoded_kinds(batch)]}
    found = {}
    for (name, kinds), traffic in zip(groups.items(), outputs.traffic, strict=False):
        parts = [_choices(*pair, batch, experts) for pair in zip(traffic.routes, kinds, strict=True)]
        found[name] = Choices(*(jnp.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return found


def _choices(routes: Routes, kinds: Sequence[str], batch: Batch, experts: int) -> Choices:
    chosen_BTkE = jax.nn.one_hot(routes.experts, experts) * (routes.gates > 0)[..., None]
    return Choices(join([batch[kind]["task"] for kind in kinds]), jnp.sum(chosen_BTkE, axis=(1, 2)))
