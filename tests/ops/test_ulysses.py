"""Ulysses around the ring: exact for every split, with few heads too, and in order."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lwm.ops.masks import Mask
from lwm.ops.ulysses import Group, kv_copies
from lwm.parallel.layout import zigzag_order


@pytest.mark.parametrize(
    "n, ulysses, heads, layout, options",
    [
        (4, 2, (4, 4), "zigzag", {}),
        (4, 4, (4, 1), "zigzag", {"softcap": 3.0}),
        (8, 4, (8, 2), "contiguous", {"mask": Mask(frame=7)}),
        (6, 3, (12, 2), "zigzag", {"bidirectional": True}),
        (6, 2, (6, 3), "contiguous", {"mask": Mask(window=11)}),
        (4, 2, (4, 2), "zigzag", {"stripe": 3}),
        (4, 4, (4, 4), "zigzag", {"stripe": 2}),
    ],
)
def test_every_split_is_exact(exact, mesh_of, rng, n, ulysses, heads, layout, options):
    T = 47 if layout == "contiguous" else 48
    inputs = exact.make(rng, 2, T, *heads, ids="segments", sinks=True)
    exact.check(
        mesh_of(seq=n), *inputs, layout=layout, ulysses=ulysses, block=5, **({"mask": Mask()} | options)
    )


def test_with_the_other_axes(exact, mesh_of, rng):
    inputs = exact.make(rng, 2, 48, 4, 2, ids="segments", sinks=True)
    mesh = mesh_of(data=2, tensor=2, seq=2)
    exact.check(mesh, *inputs, mask=Mask(), layout="zigzag", ulysses=2, block=5)


@pytest.mark.parametrize(
    "group, layout, stripe",
    [(2, "zigzag", 0), (3, "zigzag", 0), (6, "zigzag", 0), (3, "contiguous", 0)]
    + [(2, "zigzag", 2), (3, "zigzag", 1), (6, "zigzag", 2)],
)
def test_a_group_holds_what_one_device_of_a_smaller_ring_holds(mesh_of, group, layout, stripe):
    n, T = 6, 48
    order, smaller = np.arange(T), np.arange(T)
    if layout == "zigzag":
        order, smaller = zigzag_order(T, n, stripe), zigzag_order(T, n // group, stripe * group)
    exchange = Group(group, layout, stripe)

    def there(x, ids):
        whole = exchange.gather(x)
        return whole, exchange.gather(ids), exchange.scatter(whole)

    with jax.set_mesh(mesh_of(seq=n)):
        x = np.broadcast_to(order[None, :, None, None], (1, T, 6, 1)) * 10 + np.arange(6)[:, None]
        fn = jax.shard_map(
            there, in_specs=(P(None, "seq"), P(None, "seq")), out_specs=P(None, "seq"), check_vma=False
        )
        whole, ids, back = jax.jit(fn)(x.astype(np.int32), order[None])
    # Devices of a group hold the same positions and different heads.
    whole = np.asarray(whole)[0, :, :, 0].reshape(n // group, group, T // (n // group), 6 // group)
    ids = np.asarray(ids).reshape(n // group, group, -1)
    for member in range(group):
        np.testing.assert_array_equal(whole[:, member, :, 0] // 10, smaller.reshape(n // group, -1))
        np.testing.assert_array_equal(ids[:, member], smaller.reshape(n // group, -1))
        heads = np.arange(6 // group) + member * (6 // group)
        np.testing.assert_array_equal(whole[:, member] % 10, np.broadcast_to(heads, whole[:, member].shape))
    np.testing.assert_array_equal(back, x)


def test_as_few_copies_of_keys_as_make_shares_equal():
    assert [kv_copies(K, u) for K, u in ((8, 4), (8, 8), (2, 8), (1, 8), (4, 6))] == [1, 1, 4, 8, 3]
