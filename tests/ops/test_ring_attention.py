"""The ring against the dense reference on meshes of 1 to 8 devices, and what it sends."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_policies

from lwm.ops.attention import attention
from lwm.ops.ring_attention import ring_attention
from lwm.parallel.layout import natural_order, zigzag_order

HEADS = {"MHA": (4, 4), "GQA": (4, 2), "MQA": (4, 1)}


def dense(q, k, v, segments):
    return attention(q, k, v, causal=True, q_segments_BT=segments, k_segments_BS=segments)


def in_ring(q, k, v, segments, n, block):
    """Ring attention of arrays in natural order."""
    zigzag, natural = zigzag_order(q.shape[1], n), natural_order(q.shape[1], n)
    segments = None if segments is None else segments[:, zigzag]
    return ring_attention(q[:, zigzag], k[:, zigzag], v[:, zigzag], segments, block=block)[:, natural]


def with_gradients(fn, q, k, v, dout, segments):
    """(out, dq, dk, dv) of fn(q, k, v, segments)."""
    out, pull = jax.vjp(lambda q, k, v: fn(q, k, v, segments), q, k, v)
    return out, *pull(dout)


def check(mesh, inputs, segments, block, atol=1e-5):
    n = mesh.shape["seq"]
    with jax.set_mesh(mesh):
        got = jax.jit(with_gradients, static_argnums=0)(
            lambda q, k, v, segments: in_ring(q, k, v, segments, n, block), *inputs, segments
        )
    want = jax.jit(with_gradients, static_argnums=0)(
        dense, *(x.astype(jnp.float32) for x in inputs), segments
    )
    for x, y, like in zip(got, want, (inputs[0], *inputs[:3]), strict=True):
        assert x.dtype == like.dtype
        np.testing.assert_allclose(np.asarray(x, np.float32), y, atol=atol, rtol=0)
    return got


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("heads", HEADS)
def test_packed_rows_equal_dense(mesh_of, qkv, packed, n, heads):
    B, T = 2, 48
    segments = packed(B, T)
    out, dq, dk, dv = check(mesh_of(seq=n), qkv(B, T, T, *HEADS[heads], 8), segments, block=5)
    padding = np.asarray(segments) == 0
    assert padding.any()
    assert not any(np.any(np.asarray(x)[padding]) for x in (out, dq, dk, dv))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_whole_rows_equal_dense(mesh_of, qkv, n):
    check(mesh_of(seq=n), qkv(1, 48, 48, *HEADS["GQA"], 8), None, block=512)


@pytest.mark.parametrize(
    "axes", [{"data": 2, "tensor": 2, "seq": 2}, {"fsdp": 2, "seq": 3}, {"data": 2, "fsdp": 2, "tensor": 2}]
)
def test_with_the_other_axes(mesh_of, qkv, packed, axes):
    check(
        mesh_of(**axes), qkv(4, 42, 42, *HEADS["GQA"], 8), packed(4, 42) if "seq" in axes else None, block=4
    )


def test_without_a_mesh(qkv, packed):
    inputs, segments = qkv(2, 37, 37, 4, 2, 8), packed(2, 37)
    got = jax.jit(ring_attention, static_argnames="block")(*inputs[:3], segments, block=16)
    np.testing.assert_allclose(got, dense(*inputs[:3], segments), atol=1e-5)


def test_bfloat16(mesh_of, qkv, packed):
    check(mesh_of(seq=4), qkv(1, 64, 64, 4, 2, 16, jnp.bfloat16), packed(1, 64), block=8, atol=0.05)


def test_lengths_that_the_mesh_does_not_cut(mesh_of, qkv):
    with jax.set_mesh(mesh_of(data=2, tensor=2, seq=2)):
        for B, T, N, K, letter in ((3, 8, 2, 2, "B: 3"), (2, 6, 2, 2, "T: 6"), (2, 8, 3, 1, "N: 3")):
            with pytest.raises(ValueError, match=letter):
                jax.eval_shape(ring_attention, *qkv(B, T, T, N, K, 4)[:3])
        with pytest.raises(ValueError, match="K: 1"):
            jax.eval_shape(ring_attention, *qkv(2, 8, 8, 4, 1, 4)[:3])


def layers(q, k, v, segments, policy):
    """Two rematerialised layers in a scan."""

    def layer(x, _):
        x = jnp.sin(x)
        return x + ring_attention(x, k, v, segments, block=4), None

    return jax.lax.scan(jax.checkpoint(layer, policy=policy, prevent_cse=False), q, length=2)[0]


def permutes(jaxpr, name="ppermute"):
    """How often a jaxpr sends something round the ring, counting a scan by its length."""
    count = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        count += equation.primitive.name == name
        count += times * sum(permutes(inner, name) for inner in jax.core.jaxprs_in_params(equation.params))
    return count


def test_inside_scan_and_checkpoint(mesh_of, qkv, packed):
    """Values as without a mesh; with "attention_out" and "attention_lse" saved, no forward pass is repeated."""
    n, (q, k, v, dout), segments = 4, qkv(1, 32, 32, 2, 1, 4), packed(1, 32)
    zigzag, natural = zigzag_order(32, n), natural_order(32, n)
    named = checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    hops = {"forward": 3 * (n - 1), "backward": 5 * (n - 1)}
    for policy, repeated in ((checkpoint_policies.nothing_saveable, 1), (named, 0)):

        def loss(q, k, v, policy=policy):
            return jnp.sum(layers(q, k, v, segments[:, zigzag], policy) * dout[:, zigzag])

        with jax.set_mesh(mesh_of(seq=n)):
            step = jax.jit(jax.grad(loss, (0, 1, 2)))
            got = step(q[:, zigzag], k[:, zigzag], v[:, zigzag])
            jaxpr = jax.make_jaxpr(step)(q, k, v)
        assert permutes(jaxpr.jaxpr) == 2 * ((1 + repeated) * hops["forward"] + hops["backward"])
    want = jax.grad(lambda *qkv: jnp.sum(layers(*qkv, segments, policy) * dout), (0, 1, 2))(q, k, v)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x[:, natural], y, atol=1e-5)


def executed(text, kind):
    """How often a compiled module runs an instruction, from the trip counts of its loops."""
    bodies = dict(re.findall(r"^(?:ENTRY )?(%[\w.-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S))
    entry = re.search(r"^ENTRY (%[\w.-]+)", text, re.M).group(1)

    def count(name):
        total = 0
        for line in bodies[name].splitlines():
            total += bool(re.search(rf" {kind}(-start)?\(", line))
            loop = re.search(r"body=(%[\w.-]+)", line)
            if loop and (inner := count(loop.group(1))):
                total += inner * int(re.search(r'"known_trip_count":\{"n":"(\d+)"', line).group(1))
        return total

    return count(entry)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_hops_of_the_compiled_program(mesh_of, qkv, n):
    """K and V: n - 1 hops forward and backward; dK and dV: n - 1 hops. Nothing else crosses devices."""
    T = 16 * n
    q, k, v, dout = qkv(1, T, T, 2, 1, 4)

    def step(q, k, v):
        out, pull = jax.vjp(lambda q, k, v: ring_attention(q, k, v, block=8), q, k, v)
        return out, pull(out)

    with jax.set_mesh(mesh_of(seq=n)) as mesh:
        place = jax.NamedSharding(mesh, jax.P(None, "seq"))
        text = jax.jit(step, in_shardings=place, out_shardings=place).lower(q, k, v).compile().as_text()
    assert executed(text, "collective-permute") == 2 * (n - 1) + 2 * (n - 1) + 2 * (n - 1)
    assert not re.search(r"all-(gather|reduce|to-all)\(", text)


def test_no_device_holds_the_sequence(mesh_of, qkv):
    """Temporary memory of a device stays the same when length and devices double together."""
    sizes = []
    for n in (2, 4, 8):
        q, k, v, dout = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in qkv(1, 128 * n, 128 * n, 2, 1, 4))
        with jax.set_mesh(mesh_of(seq=n)) as mesh:
            place = jax.NamedSharding(mesh, jax.P(None, "seq"))
            fn = jax.jit(
                lambda *qkvd: jax.vjp(lambda *qkv: ring_attention(*qkv, block=16), *qkvd[:3])[1](qkvd[3]),
                in_shardings=place,
                out_shardings=place,
            )
            sizes.append(fn.lower(q, k, v, dout).compile().memory_analysis().temp_size_in_bytes)
    assert max(sizes) <= 1.25 * min(sizes), sizes
