"""Where embeddings enter the layers, on meshes that cut rows, positions and width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.activations import entering
from lwm.models.layers import Embedding
from lwm.parallel.mesh import make_mesh
from lwm.parallel.sharding import BATCH, constrain

AXES = [dict(data=2, tensor=2, seq=2), dict(fsdp=2, tensor=2, seq=2), dict(data=2, tensor=4)]


@pytest.mark.parametrize("axes", AXES, ids=str)
@pytest.mark.parametrize("T", [8, 128])
def test_look_up_is_right_for_fewer_tokens_than_rows_of_the_table_and_more(axes, T):
    V, D = 256, 32
    rng = np.random.default_rng(0)
    table, tokens = rng.normal(size=(V, D)).astype(np.float32), rng.integers(0, V, (4, T)).astype(np.int32)
    weights = rng.normal(size=(4, T, D)).astype(np.float32)

    def enter(table, tokens):
        x = Embedding(V, D, jnp.float32).apply(
            {"params": {"embedding": table}}, constrain(tokens, BATCH, "seq")
        )
        return entering(x, decoding=False)

    with jax.set_mesh(make_mesh(**axes)):
        found = jax.jit(enter)(table, tokens)
        gradient = jax.jit(jax.grad(lambda table: jnp.vdot(enter(table, tokens), weights)))(table)
    np.testing.assert_array_equal(found, table[tokens])
    expected = np.zeros_like(table)
    np.add.at(expected, tokens, weights)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)
