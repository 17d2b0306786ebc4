"""The ring against the dense reference on meshes of 1 to 8 devices, and what it sends."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_policies
from jax.sharding import NamedSharding, PartitionSpec

from lwm.ops.attention import attention
from lwm.ops.dropout import Dropout
from lwm.ops.masks import Mask
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


@pytest.mark.parametrize("n", [1, 3, 8, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
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
        mesh_of(**axes), qkv(4, 36, 36, *HEADS["GQA"], 8), packed(4, 36) if "seq" in axes else None, block=4
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


@pytest.mark.parametrize(
    "options, words",
    [
        ({"layout": "spiral"}, "layout: 'spiral'; one of"),
        ({"stripe": 3}, "T: 8 is not a multiple of 24, two stripes of 3"),
        ({"stripe": -1}, "stripe: -1"),
        ({"layout": "contiguous", "stripe": 2}, "stripe: 2; .* 0 for 'contiguous'"),
        ({"ulysses": 3}, "ulysses: 3; a divisor of seq=4"),
        ({"ulysses": 4}, "ulysses: 4; a divisor of the 2 heads"),
        ({"block": 0}, "block: 0"),
        ({"softcap": -1.0}, "softcap: -1.0"),
        ({"sinks_N": np.zeros(3)}, r"sinks_N: shape \(3,\); needs \(2,\)"),
        ({"segments_BT": np.ones((1, 7), int)}, r"segments_BT: shape \(1, 7\); needs \(1, 8\)"),
        ({"dropout": Dropout(1.0, 0)}, "dropout: rate 1.0"),
    ],
)
def test_arguments_that_cannot_be(mesh_of, qkv, options, words):
    with jax.set_mesh(mesh_of(seq=4)), pytest.raises(ValueError, match=words):
        ring_attention(*qkv(1, 8, 8, 2, 1, 4)[:3], **options)


def test_keys_and_values_that_do_not_fit_the_queries(qkv):
    q, k, v, _ = qkv(1, 8, 8, 3, 2, 4)
    for args, words in (((q, k, v), "3 heads"), ((q, k[:, 1:], v), "k_BTKH"), ((q, k, v[..., 1:]), "v_BTKH")):
        with pytest.raises(ValueError, match=words):
            ring_attention(*args)


def layers(x, segments, policy):
    """Two rematerialised layers in a scan."""

    def layer(x, _):
        return x + ring_attention(jnp.sin(x), jnp.cos(x[:, :, :1]), x[:, :, 1:], segments, block=4), None

    return jax.lax.scan(jax.checkpoint(layer, policy=policy, prevent_cse=False), x, length=2)[0]


def permutes(jaxpr, name="ppermute"):
    """How often a jaxpr sends something round the ring, counting a scan by its length."""
    count = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        count += equation.primitive.name == name
        count += times * sum(permutes(inner, name) for inner in jax.core.jaxprs_in_params(equation.params))
    return count


@pytest.mark.slow  # the models of tests/models/ are such scans as well
def test_inside_scan_and_checkpoint(mesh_of, qkv, packed):
    """Gradients as without a mesh; with the named residuals saved, no forward pass is repeated."""
    n, (x, _, _, dout), segments = 4, qkv(1, 32, 32, 2, 1, 4), packed(1, 32)
    zigzag, natural = zigzag_order(32, n), natural_order(32, n)
    named = checkpoint_policies.save_only_these_names("attention_out", "attention_lse")
    hops = {"forward": 2 * (n - 1), "backward": 4 * (n - 1)}
    for policy, repeated in ((checkpoint_policies.nothing_saveable, 1), (named, 0)):

        def loss(x, segments, policy=policy):
            return jnp.sum(layers(x, segments, policy) * dout[:, zigzag])

        with jax.set_mesh(mesh_of(seq=n)):
            got = jax.jit(jax.grad(loss))(x[:, zigzag], segments[:, zigzag])
            jaxpr = jax.make_jaxpr(jax.grad(loss))(x, None)
        assert permutes(jaxpr.jaxpr) == 2 * ((1 + repeated) * hops["forward"] + hops["backward"])
        want = jax.jit(jax.grad(lambda x, policy=policy: jnp.sum(layers(x, segments, policy) * dout)))(x)
        np.testing.assert_allclose(got[:, natural], want, atol=1e-5)


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
    """K and V: n - 1 hops forward, n - 1 backward; dK and dV: n - 1. Nothing else crosses devices."""
    mesh, T = mesh_of(seq=n), 16 * n
    place = NamedSharding(mesh, PartitionSpec(None, "seq"))
    q, k, v, dout = jax.device_put(qkv(1, T, T, 2, 1, 4), place)
    forward = jax.jit(lambda *qkv: jax.vjp(functools.partial(ring_attention, block=8), *qkv))
    with jax.set_mesh(mesh):
        out, pull = forward(q, k, v)
        texts = (
            forward.lower(q, k, v).compile().as_text(),
            jax.jit(lambda pull, dout: pull(dout)).lower(pull, dout).compile().as_text(),
        )
    assert [executed(text, "collective-permute") for text in texts] == [2 * (n - 1), 4 * (n - 1)]
    assert not any(re.search(r"all-(gather|reduce|to-all)\(", text) for text in texts)


def test_a_window_asks_its_neighbours_only(mesh_of, qkv):
    """ceil((W - 1) / S_local) hops of K and V, and dK and dV go home in one step from the last."""
    mesh, T = mesh_of(seq=8), 64
    q, k, v, dout = qkv(1, T, T, 2, 1, 4)
    for window, hops in ((1, 0), (9, 1), (10, 2), (64, 7)):
        fn = functools.partial(ring_attention, block=8, layout="contiguous", mask=Mask(window=window))
        with jax.set_mesh(mesh):
            forward = jax.make_jaxpr(fn)(q, k, v)
            both = jax.make_jaxpr(lambda q, k, v, fn=fn: jax.vjp(fn, q, k, v)[1](dout))(q, k, v)
        assert permutes(forward.jaxpr) == 2 * hops
        assert permutes(both.jaxpr) == (2 + 4) * hops


def bodies(jaxpr):
    """Every jaxpr inside a jaxpr that sends something round the ring itself."""
    if any(equation.primitive.name == "ppermute" for equation in jaxpr.eqns):
        yield jaxpr
    for equation in jaxpr.eqns:
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from bodies(inner)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"mask": Mask(frame=3)}])
def test_no_work_in_a_loop_waits_for_what_is_sent_in_it(mesh_of, qkv, options):
    T = 80
    q, k, v, dout = qkv(1, T, T, 2, 1, 4)
    fn = functools.partial(ring_attention, block=4, **options)
    with jax.set_mesh(mesh_of(seq=5)):
        jaxpr = jax.make_jaxpr(lambda q, k, v: jax.vjp(fn, q, k, v)[1](dout))(q, k, v)
    loops = [
        inner
        for body in bodies(jaxpr.jaxpr)
        for equation in body.eqns
        if equation.primitive.name == "scan"
        for inner in jax.core.jaxprs_in_params(equation.params)
        if permutes(inner)
    ]
    assert len(loops) == 2  # one forward, one backward
    for loop in loops:
        order = [equation.primitive.name for equation in loop.eqns]
        work = {"scan", "while", "cond", "dot_general"}
        assert max(i for i, name in enumerate(order) if name == "ppermute") < order.index("scan")
        sent = set()
        for equation in loop.eqns:
            if equation.primitive.name == "ppermute" or sent & {id(x) for x in equation.invars}:
                assert equation.primitive.name not in work
                sent |= {id(x) for x in equation.outvars}


def test_both_ways_sends_half_each_way(mesh_of, exact, rng):
    n = 4
    for layout, K in (("zigzag", 1), ("contiguous", 2)):
        inputs = exact.make(rng, 1, 64, 4, K, ids="segments")
        options = {"mask": Mask(), "block": 5, "layout": layout, "bidirectional": True}
        exact.check(mesh_of(seq=n), *inputs, **options)
    with jax.set_mesh(mesh_of(seq=n)):
        jaxpr = jax.make_jaxpr(functools.partial(ring_attention, bidirectional=True))(*inputs[0][:3])
    sent = [e for body in bodies(jaxpr.jaxpr) for e in body.eqns if e.primitive.name == "ppermute"]
    assert {e.params["perm"][0] for e in sent} == {(0, 1), (0, n - 1)}
    assert {e.invars[0].aval.shape[1] for e in sent} == {64 // n // 2}


def test_gradients_in_bfloat16_on_the_wire(mesh_of, dense64, exact, rng):
    """dK and dV lose what bfloat16 rounds away at each hop, dQ and the output nothing."""
    (q, k, v, dout), _, _ = exact.make(rng, 1, 64, 4, 2)
    options = {"mask": Mask(), "block": 16, "layout": "zigzag"}
    got = exact.in_ring(mesh_of(seq=4), (q, k, v, dout), None, None, wire_dtype=jnp.bfloat16, **options)
    want = dense64.attention(q, k, v, dout, dense64.visible(64, 64)[None])
    errors = [dense64.error(x, y) for x, y in zip(got, want, strict=False)]
    assert max(errors[:2]) < 2e-6
    assert min(errors[2:]) > 1e-4 and max(errors[2:]) < 1e-2


def test_heads_that_do_not_fit_take_turns(mesh_of, exact, rng, monkeypatch):
    inputs = exact.make(rng, 1, 48, 8, 4, ids="segments", sinks=True)
    q, k, _, _ = inputs[0]
    monkeypatch.setattr("lwm.ops.ring_attention.HELD_BYTES", (2 * k.nbytes + q.nbytes) // 3 // 2)
    mesh, options = mesh_of(seq=3), {"mask": Mask(), "block": 8, "layout": "zigzag"}
    exact.check(mesh, *inputs, **options)
    with jax.set_mesh(mesh):
        jaxpr = jax.make_jaxpr(ring_attention)(*inputs[0][:3])
    assert permutes(jaxpr.jaxpr) == 2 * 2 * (3 - 1)


def test_no_device_holds_the_sequence(mesh_of):
    """Temporary memory of a device does not grow when length and devices double together."""
    sizes = {}
    for n, T in ((4, 512), (8, 1024), (4, 1024)):
        mesh = mesh_of(seq=n)
        place = NamedSharding(mesh, PartitionSpec(None, "seq"))

        def step(q, k, v, dout):
            return jax.vjp(functools.partial(ring_attention, block=16), q, k, v)[1](dout)

        shapes = [jax.ShapeDtypeStruct((1, T, N, 4), jnp.float32, sharding=place) for N in (2, 1, 1, 2)]
        with jax.set_mesh(mesh):
            compiled = jax.jit(step, out_shardings=place).lower(*shapes).compile()
        sizes[n, T] = compiled.memory_analysis().temp_size_in_bytes
    assert sizes[8, 1024] < 1.1 * sizes[4, 512], sizes
    assert sizes[4, 1024] > 1.5 * sizes[4, 512], sizes
