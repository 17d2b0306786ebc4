"""The byte model against the collectives of compiled programs."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lwm.ops.lv_xattn import lv_xattn
from lwm.ops.xattn_traffic import Traffic, choose, traffic
from lwm.ops.xattn_ways import WAYS

MIB = 2**20
# LV-XAttn's own case: 4096 queries, a million keys, grouped heads, 8 devices.
LARGE = dict(B=1, T=4096, S=2**20, N=32, K=8, H=128, n=8, dtype=jnp.bfloat16)


def programs(mesh, *, B, T, S, N, K, H, n, dtype, **options):
    """The compiled forward and backward of lv_xattn, as text."""
    place = NamedSharding(mesh, PartitionSpec(None, "seq"))
    shapes = (B, T, N, H), (B, S, K, H), (B, S, K, H)
    q, k, v = (jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape in shapes)
    with jax.set_mesh(mesh):
        forward = jax.jit(lambda *qkv: jax.vjp(functools.partial(lv_xattn, **options), *qkv)).lower(q, k, v)
        compiled = forward.compile()
        shapes, shardings = jax.tree.flatten(forward.out_info)[0], jax.tree.leaves(compiled.output_shardings)
        out, *residuals = (
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
            for x, sharding in zip(shapes, shardings, strict=True)
        )
        pull = jax.tree.unflatten(jax.tree.structure(forward.out_info[1]), residuals)
        backward = jax.jit(lambda pull, dout: pull(dout)).lower(pull, out).compile()
    return compiled.as_text(), backward.as_text()


def sent(text, n):
    """Bytes that each of n devices sends in a compiled module, from the trip counts of its loops."""
    bodies = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))
    # Of what it returns, a permute sends all, an all-gather and an all-to-all all but an n-th, and a
    # reduce-scatter as much to each other device.
    most = (n - 1) / n
    share = {"collective-permute": 1, "all-gather": most, "all-to-all": most, "reduce-scatter": n - 1}

    def count(name):
        total = 0
        for line in bodies[name].splitlines():
            for kind, factor in share.items():
                if found := re.search(rf"= (.*?) {kind}(-start)?\(", line):
                    total += factor * size(found[1], found[2])
            assert not re.search(r" all-reduce(-start)?\(", line)
            loop = re.search(r"body=(%[\w.-]+)", line)
            if loop and (inner := count(loop[1])):
                total += inner * int(re.search(r'"known_trip_count":\{"n":"(\d+)"', line)[1])
        return total

    return count(re.search(r"^ENTRY (%[\w.-]+)", text, re.M)[1])


def size(types, start):
    """Bytes of an array or tuple type; of the operand alone if it is what a -start returns."""
    arrays = re.findall(r"\b([a-z]+)(\d+)\[([\d,]*)\]", types)[: 1 if start else None]
    shapes = ((int(bits) // 8, map(int, filter(None, dims.split(",")))) for _, bits, dims in arrays)
    return sum(width * math.prod(shape) for width, shape in shapes)


@pytest.mark.parametrize(
    "way, n, dtype",
    [
        ("rotate_queries", 2, jnp.bfloat16),
        ("rotate_queries", 3, jnp.float32),
        ("rotate_keys", 5, jnp.float32),
        ("rotate_keys", 2, jnp.bfloat16),
        ("gather_queries", 3, jnp.bfloat16),
    ],
)
def test_bytes_of_compiled_programs(mesh_of, way, n, dtype):
    shape = dict(B=2, T=4 * n, S=8 * n, N=4, K=2, H=4, n=n, dtype=dtype)
    forward, backward = programs(mesh_of(seq=n), block=4, way=way, **shape)
    assert Traffic(sent(forward, n), sent(backward, n)) == traffic(way, **shape)


def test_bytes_of_the_large_case(mesh_of):
    """60.5 and 121 MiB are allowed; a ring over the keys sends 3.5 GiB forward and 10.5 GiB backward."""
    forward, backward = programs(mesh_of(seq=8), **LARGE)
    counted = Traffic(sent(forward, 8), sent(backward, 8))
    assert counted == traffic("rotate_queries", **LARGE) == Traffic(56.875 * MIB, 112.875 * MIB)
    assert traffic("rotate_keys", **LARGE) == Traffic(3584 * MIB, 10752 * MIB)
    assert not re.search(r"all-(gather|reduce|to-all)|reduce-scatter", forward + backward)


@pytest.mark.parametrize(
    "change, way, words",
    [
        ({}, "rotate_queries", "4096 queries of 32 heads"),
        ({"T": 2**20, "S": 4096}, "rotate_keys", "4096 keys of 8 heads"),
        ({"T": 2**15, "S": 2**16}, "rotate_keys", "65536 keys of 8 heads"),  # fewer queries, but more heads
        ({"T": 2**15, "S": 2**16, "K": 32}, "rotate_queries", "32768 queries"),
        ({"T": 8}, "gather_queries", "too few"),
        ({"n": 1}, "rotate_queries", "One device sends nothing."),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_the_way_that_sends_least_is_chosen_and_explained(change, way, words, training):
    choice = choose(**LARGE | change, training=training)
    sizes = {way: of.total if training else of.forward for way, of in choice.traffic.items()}
    assert choice.way == way and sizes[way] == min(sizes.values())
    assert words in choice.why and choice.why.endswith(".") and choice.why.count(". ") == 0
    assert set(choice.traffic) == set(WAYS)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"T": 0}, "T: 0; must be at least 1"),
        ({"n": -2}, "n: -2; must be at least 1"),
        ({"K": 5}, "N: 32 query heads; must be a multiple of K=5"),
    ],
)
def test_shapes_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        choose(**LARGE | change)


def test_an_unknown_way():
    with pytest.raises(ValueError, match="way: 'teleport'; one of rotate_queries"):
        traffic("teleport", **LARGE)
