"""Who meets whom on the trip, and how often something is sent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import PartitionSpec

from lwm.ops.axes import per_device
from lwm.ops.round_trip import round_trip, send


def trip(n, T):
    """T visitors a device carry powers of two; homes add up the visitors, results the homes."""

    def visit(home, visitor):
        owner, total = home
        return (owner, total + jnp.sum(visitor)), jnp.full_like(visitor, 2.0**owner)

    def run(visitor_BT, owner_1):
        (_, total), result = round_trip(
            visitor_BT,
            (owner_1[0], jnp.zeros(())),
            visit,
            jnp.add,
            n=n,
            send_visitor=functools.partial(send, n=n),
            send_result=functools.partial(send, n=n),
        )
        return total[None], result

    seq = PartitionSpec("seq")
    rows = PartitionSpec(None, "seq")
    return jax.jit(per_device(run, (rows, seq), (seq, rows)))(
        2.0 ** jnp.arange(T * n)[None], jnp.arange(n, dtype=jnp.float32)
    )


@pytest.mark.parametrize("n, T", [(1, 1), (2, 3), (3, 2), (4, 3), (7, 3)])
def test_everyone_sees_everyone_once_and_comes_home(mesh_of, n, T):
    with jax.set_mesh(mesh_of(seq=n)):
        total, result = trip(n, T)
    np.testing.assert_array_equal(total, np.full(n, 2.0 ** (T * n) - 1))
    np.testing.assert_array_equal(result, np.full((1, T * n), 2.0**n - 1))


def test_a_transfer_never_waits_for_the_visit_beside_it(mesh_of):
    """What a loop sends are what it was handed, not what it computes."""
    with jax.set_mesh(mesh_of(seq=5)):
        jaxpr = jax.make_jaxpr(functools.partial(trip, 5, 2))()
    (loop,) = (eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "scan")
    body = loop.params["jaxpr"].jaxpr
    permutes = [eqn for eqn in body.eqns if eqn.primitive.name == "ppermute"]
    assert len(permutes) == 2 and loop.params["length"] == 2
    assert {var for eqn in permutes for var in eqn.invars} <= set(body.invars)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)
