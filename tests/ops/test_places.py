"""Rows of a table to places of a sequence and back: values, gradients, and the same on a mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lwm.ops.places import collect, place

B, T, M, D = 2, 8, 5, 4


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    at_BT = rng.integers(-1, M, (B, T)).astype(np.int32)
    assert (at_BT < 0).any() and (np.bincount(at_BT[0] + 1) > 1).any()
    return rng.normal(size=(B, M, D)).astype(np.float32), rng.normal(size=(B, T, D)).astype(np.float32), at_BT


def both(table_BMD, x_BTD, at_BT):
    """<place(table), x> has the gradient collect(x) in the table, as each is the transpose of the other."""
    placed, of_table = jax.vjp(lambda table: place(table, at_BT), table_BMD)
    collected, of_x = jax.vjp(lambda x: collect(x, at_BT, M), x_BTD)
    return placed, collected, of_table(x_BTD)[0], of_x(table_BMD)[0]


def test_values_and_gradients_by_hand(case):
    table_BMD, x_BTD, at_BT = case
    hot_BTM = (at_BT[..., None] == np.arange(M)).astype(np.float32)
    placed, collected = (
        np.einsum("BTM,BMD->BTD", hot_BTM, table_BMD),
        np.einsum("BTM,BTD->BMD", hot_BTM, x_BTD),
    )
    for got, expected in zip(both(*case), (placed, collected, collected, placed), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_same_on_a_mesh(case, mesh_of):
    mesh = mesh_of(data=2, tensor=2, seq=2)
    specs = P("data"), P("data", "seq"), P("data", "seq")
    with jax.set_mesh(mesh):
        there = [jax.device_put(x, NamedSharding(mesh, spec)) for x, spec in zip(case, specs, strict=True)]
        got = jax.jit(both)(*there)
    for one, expected in zip(got, both(*case), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_shapes_that_do_not_fit_are_named():
    x, at = jnp.zeros((B, T, D)), jnp.zeros((B, T), jnp.int32)
    with pytest.raises(ValueError, match="table_BMD: shape .* need"):
        place(x[0], at)
    with pytest.raises(ValueError, match="at_BT: shape .*; needs .* that of x_BTD"):
        collect(x, at[:, 1:], M)
