"""Travelling queries against a dense float64 reference, on meshes of 1 to 8 devices."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.ad_checkpoint import print_saved_residuals
from jax.extend.core import jaxprs_in_params

from lwm.ops.lv_xattn import lv_xattn, lv_xattn_projected
from lwm.ops.masks import FRAME_BITS
from lwm.ops.xattn_ways import WAYS
from lwm.parallel.mesh import make_mesh

OUT, GRADIENT = 2e-6, 5e-6
HEADS = {"MHA": (4, 4), "GQA": (4, 2), "MQA": (4, 1)}


def dense(q, k, v, seen_BTS, softcap=0.0):
    """Attention with all scores at once, in whatever precision it is called in."""
    G = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, G, axis=2), jnp.repeat(v, G, axis=2)
    scores = jnp.einsum("BTNH,BSNH->BNTS", q, k) * q.shape[-1] ** -0.5
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    seen = jnp.asarray(seen_BTS)[:, None]
    top = jax.lax.stop_gradient(jnp.max(jnp.where(seen, scores, -1e30), axis=-1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(jnp.where(seen, scores - top, 0.0)), 0.0)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.einsum("BNTS,BSNH->BTNH", weights / jnp.where(total > 0, total, 1.0), v)


def with_gradients(fn, dout, *inputs):
    out, pull = jax.vjp(fn, *inputs)
    return out, *pull(dout)


def check(got, want, out=OUT, gradient=GRADIENT):
    """Largest error over largest value, of (out, gradients); `want` may have more at its end.

    The gradients of a row that sees one key are 0, so values are those of the inputs' size at least.
    """
    got, want = [np.asarray(x, np.float64) for x in got], [np.asarray(x) for x in want[: len(got)]]
    assert all(np.all(np.isfinite(x)) for x in got)
    errors = [np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 0.1) for x, y in zip(got, want, strict=True)]
    assert errors[0] <= out and max(errors[1:]) <= gradient, errors


def on(mesh, **options):
    """Compiled (dout, q, k, v, q_ids, k_ids) -> (out, dq, dk, dv) of lv_xattn on a mesh, None for no mesh."""

    def run(dout, q, k, v, q_ids, k_ids):
        def attend(q, k, v):
            return lv_xattn(q, k, v, q_ids, k_ids, **options)

        return with_gradients(attend, dout, q, k, v)

    return under(mesh, run)


def under(mesh, fn):
    """fn, compiled, with a mesh in context; None for no mesh."""
    fn = jax.jit(fn)

    def call(*inputs):
        with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            return fn(*inputs)

    return call


def ids_of(rng, B, T, S, n, ordered):
    """Segments or frames that try the corners: (name, q_ids, k_ids)."""
    top = 4
    q, k = rng.integers(1, top, (B, T)), np.sort(rng.integers(1, top, (B, S)), axis=1)
    yield "all there", np.ones((B, T)), np.ones((B, S))
    yield "frames" if ordered else "segments", np.sort(q, axis=1), k
    yield "padding in both", np.where(np.arange(T) < T - 3, q, 0), np.where(np.arange(S) < S - 5, k, 0)
    home = -(-S // n)
    yield "devices 0 and 1 hidden", q, np.where(np.arange(S) < min(2 * home, S - 1), 0, k)
    yield "the last devices hidden", q, np.where(np.arange(S) < home, k, 0)
    yield "rows that see nothing", np.where(np.arange(T) % 3 == 1, 0 if ordered else top, q), k
    yield "nobody sees anything", np.zeros((B, T)), k


@pytest.mark.parametrize("ordered", [False, True], ids=["same id", "ordered ids"])
@pytest.mark.parametrize("n, heads", [(1, "GQA"), (2, "MQA"), (3, "MHA"), (5, "GQA"), (8, "MQA")])
def test_equals_dense(dense64, mesh_of, qkv, rng, n, heads, ordered):
    """11 queries and 19 keys, which no ring divides."""
    B, T, S = 2, 11, 19
    (N, K), H = HEADS[heads], 4
    q, k, v, dout = qkv(B, T, S, N, K, H)
    run = on(mesh_of(seq=n), ordered=ordered, block=3, key_block=2 * (n % 2))
    for name, q_ids, k_ids in ids_of(rng, B, T, S, n, ordered):
        q_ids, k_ids = np.asarray(q_ids, np.int32), np.asarray(k_ids, np.int32)
        seen = dense64.same_segment(q_ids, k_ids, ordered)
        out, dq, dk, dv = got = run(dout, q, k, v, q_ids, k_ids)
        check(got, dense64.attention(q, k, v, dout, seen))
        blind, unseen = ~seen.any(axis=2), ~seen.any(axis=1)
        assert not np.any(np.asarray(out)[blind]) and not np.any(np.asarray(dq)[blind]), name
        assert not np.any(np.asarray(dk)[unseen]) and not np.any(np.asarray(dv)[unseen]), name


def clips_of(rng, B, T, S, bits):
    """Frames of three clips one after another, text that saw none, some or all of its clip's, and padding."""

    def ids(length, lowest):
        clip = np.sort(rng.integers(0, 3, (B, length)), axis=1)
        number = rng.integers(lowest, 4, (B, length))
        return np.where(rng.random((B, length)) < 0.2, 0, (clip << bits) + number).astype(np.int32)

    return ids(T, 0), np.sort(ids(S, 1), axis=1)


@pytest.mark.parametrize("n, way", [(1, WAYS[0]), (2, WAYS[0]), (4, WAYS[1]), (8, WAYS[0]), (2, WAYS[2])])
def test_clips_of_one_row_do_not_see_each_other(dense64, mesh_of, qkv, rng, n, way):
    B, T, S = 2, 12, 22
    q, k, v, dout = qkv(B, T, S, 4, 2, 4)
    run = on(mesh_of(seq=n), ordered=True, frame_bits=FRAME_BITS, block=3, way=way)
    for _ in range(3):
        q_ids, k_ids = clips_of(rng, B, T, S, FRAME_BITS)
        seen = dense64.same_segment(q_ids, k_ids, True, FRAME_BITS)
        assert seen.any() and (seen != dense64.same_segment(q_ids, k_ids, True)).any()
        out, dq, *grads = got = run(dout, q, k, v, q_ids, k_ids)
        check(got, dense64.attention(q, k, v, dout, seen))
        blind, unseen = ~seen.any(axis=2), ~seen.any(axis=1)
        assert not np.any(np.asarray(out)[blind]) and not np.any(np.asarray(dq)[blind])
        assert not any(np.any(np.asarray(grad)[unseen]) for grad in grads)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "rotate_queries"])
def test_the_other_ways_equal_dense(dense64, mesh_of, qkv, rng, way):
    B, T, S = 1, 7, 13
    q, k, v, dout = qkv(B, T, S, 4, 2, 4)
    run = on(mesh_of(seq=3), ordered=True, block=2, way=way)
    for _, q_ids, k_ids in ids_of(rng, B, T, S, 3, ordered=True):
        q_ids, k_ids = np.asarray(q_ids, np.int32), np.asarray(k_ids, np.int32)
        check(
            run(dout, q, k, v, q_ids, k_ids),
            dense64.attention(q, k, v, dout, dense64.same_segment(q_ids, k_ids, True)),
        )


@pytest.mark.parametrize("n, T, S", [(None, 5, 9), (2, 1, 5), (8, 16, 24)])
def test_without_segments(dense64, mesh_of, qkv, n, T, S):
    """Keys that fill up the last shard are seen by nobody, and one query is enough for two devices."""
    q, k, v, dout = qkv(2, T, S, 4, 2, 4)
    got = on(mesh_of(seq=n) if n else None, block=4)(dout, q, k, v, None, None)
    check(got, dense64.attention(q, k, v, dout, np.ones((2, T, S), bool)))


def test_keys_that_are_not_there(dense64, mesh_of, qkv, rng):
    q, k, v, dout = qkv(2, 4, 10, 2, 1, 4)
    there = rng.random((2, 10)) < 0.5
    seen = np.broadcast_to(there[:, None], (2, 4, 10))
    check(on(mesh_of(seq=2))(dout, q, k, v, None, there), dense64.attention(q, k, v, dout, seen))


def test_few_keys_and_shifted_scores(dense64, mesh_of, qkv):
    """Sixteen keys, scores around -10, 0 and +90: no phantom key of score 0, no exp without a maximum."""
    q, k, v, dout = qkv(1, 8, 16, 2, 1, 4)
    run = on(mesh_of(seq=2))
    for shift, out, gradient in ((0, OUT, GRADIENT), (-10, 1e-5, 1e-5), (90, 1e-5, 2e-5)):
        q, k = q.at[..., -1].set(shift * 4**0.5), k.at[..., -1].set(1.0)
        check(
            run(dout, q, k, v, None, None),
            dense64.attention(q, k, v, dout, np.ones((1, 8, 16), bool)),
            out=out,
            gradient=gradient,
        )


def test_softcap_on_all_axes_of_a_mesh(dense64, mesh_of, qkv, packed):
    q, k, v, dout = qkv(2, 8, 12, 4, 2, 4)
    q_ids, k_ids = packed(2, 8), packed(2, 12)
    got = on(mesh_of(data=2, tensor=2, seq=2), softcap=1.5, block=4)(dout, 2 * q, k, v, q_ids, k_ids)
    check(
        got,
        dense64.attention(2 * q, k, v, dout, dense64.same_segment(q_ids, k_ids, False), softcap=1.5),
    )


def test_sixteen_bits_are_as_exact_as_on_one_device(dense64, mesh_of, qkv):
    """Eight devices add no more to the error of bfloat16 than 10 %, though outputs travel with 16 bits."""
    q, k, v, dout = qkv(1, 32, 256, 4, 2, 32, jnp.bfloat16)
    want = dense64.attention(q, k, v, dout, np.ones((1, 32, 256), bool))

    def root_mean_square(got):
        assert all(x.dtype == jnp.bfloat16 for x in got)
        pairs = zip(got, want[:4], strict=True)
        return np.array([np.sqrt(np.mean((np.asarray(x, np.float64) - y) ** 2)) for x, y in pairs])

    alone = root_mean_square(on(None, block=32)(dout, q, k, v, None, None))
    for way in WAYS[::2]:
        together = root_mean_square(on(mesh_of(seq=8), block=32, way=way)(dout, q, k, v, None, None))
        assert np.all(together <= 1.1 * alone), (together, alone)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 4),
    B=st.integers(1, 2),
    T=st.integers(1, 9),
    S=st.integers(1, 17),
    heads=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    H=st.integers(1, 6),
    block=st.integers(1, 7),
    ordered=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_equals_dense(dense64, n, B, T, S, heads, H, block, ordered, seed):
    (K, G), rng = heads, np.random.default_rng(seed)
    shapes = (B, T, K * G, H), (B, T, K * G, H), (B, S, K, H), (B, S, K, H)
    inputs = [np.asarray(rng.normal(size=shape), np.float32) for shape in shapes]
    q_ids, k_ids = (np.asarray(rng.integers(0, 4, (B, length)), np.int32) for length in (T, S))
    got = on(make_mesh(seq=n, devices=jax.devices()[:n]), ordered=ordered, block=block)(*inputs, q_ids, k_ids)
    check(
        got,
        dense64.attention(*inputs[1:], inputs[0], dense64.same_segment(q_ids, k_ids, ordered)),
        gradient=1e-5,
    )


def features(rng, B, T, S, D, C, N, K, H):
    """x, y, W_Q, W_K, W_V."""
    shapes = (B, T, D), (B, S, C), (D, N, H), (C, K, H), (C, K, H)
    return [jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32) for shape in shapes]


def dense_layers(x, y, wq, wk, wv, seen, layers):
    for _ in range(layers):
        q, k, v = (jnp.einsum("BTD,DNH->BTNH", a, w) for a, w in ((x, wq), (y, wk), (y, wv)))
        x = x + dense(q, k, v, seen).reshape(x.shape)
    return x


def layers_of(x, y, wq, wk, wv, q_ids, k_ids, layers, **options):
    for _ in range(layers):
        x = x + lv_xattn_projected(x, y, wq, wk, wv, q_ids, k_ids, **options).reshape(x.shape)
    return x


@pytest.mark.parametrize("n, key_block, bits", [(None, 4, 0), (3, 2, 16), (3, 0, 0), (2, 100, 0)])
def test_gradients_of_projections_equal_autodiff(dense64, mesh_of, rng, n, key_block, bits):
    """Two layers that share their features: dx, dy, dW_Q, dW_K and dW_V; frames of one clip or of three."""
    B, T, S, N, H = 2, 5, 11, 4, 3
    inputs = features(rng, B, T, S, N * H, 7, N, 2, H)
    dout = jnp.asarray(rng.normal(size=inputs[0].shape), jnp.float32)
    q_ids, k_ids = rng.integers(0, 4, (B, T)), rng.integers(0, 4, (B, S))
    if bits:
        q_ids, k_ids = clips_of(rng, B, T, S, bits)
    seen = dense64.same_segment(q_ids, k_ids, True, bits)
    options = dict(ordered=True, frame_bits=bits, block=2, key_block=key_block)

    def run(dout, *inputs):
        fn = functools.partial(layers_of, q_ids=q_ids, k_ids=k_ids, layers=2, **options)
        return with_gradients(fn, dout, *inputs)

    got = under(mesh_of(seq=n) if n else None, run)(dout, *inputs)
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in (dout, *inputs)]
        fn = functools.partial(dense_layers, seen=seen, layers=2)
        want = jax.jit(functools.partial(with_gradients, fn))(*wide)
    check(got, want)


@pytest.mark.parametrize("key_block", [0, 4])
def test_what_a_layer_keeps_does_not_grow_with_the_features(mesh_of, rng, capsys, key_block):
    """Beside y itself, which all layers share, the residuals of 1 and 3 layers have no trace of S."""

    def kept(layers, S):
        inputs = features(rng, 1, 4, S, 4, 5, 2, 1, 2)
        fn = functools.partial(layers_of, q_ids=None, k_ids=None, layers=layers, key_block=key_block)
        with jax.set_mesh(mesh_of(seq=2)):
            print_saved_residuals(lambda *inputs: jnp.sum(fn(*inputs)), *inputs)
        lines = [line.replace(str(S), "S") for line in capsys.readouterr().out.splitlines()]
        return [line.split()[0] for line in lines]

    for layers in (1, 3):
        short, long = kept(layers, 97), kept(layers, 641)
        assert short == long
        assert [shape for shape in long if "S" in shape] == ["f32[1,S,5]"]


@pytest.mark.parametrize("key_block, kind, times", [(0, "ppermute", 3 * 3 + 4 * 3), (8, "all_gather", 1 + 4)])
def test_nothing_is_sent_twice_for_the_backward(mesh_of, rng, key_block, kind, times):
    """Four devices: three arrays forward and four backward make three hops each, or are gathered once."""
    inputs = features(rng, 1, 8, 32, 4, 5, 2, 1, 2)

    def loss(*inputs):
        return jnp.sum(lv_xattn_projected(*inputs, key_block=key_block))

    with jax.set_mesh(mesh_of(seq=4)):
        jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=range(5)))(*inputs)
    assert occurrences(jaxpr.jaxpr, kind) == times


def occurrences(jaxpr, name):
    """How often a primitive runs, counting a scan by its length."""
    count = 0
    for eqn in jaxpr.eqns:
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        inner = jaxprs_in_params(eqn.params)
        count += (eqn.primitive.name == name) + times * sum(occurrences(x, name) for x in inner)
    return count


Q, KV = (2, 4, 4, 8), (2, 6, 2, 8)


@pytest.mark.parametrize(
    "shapes, options, message",
    [
        ((Q, KV, (2, 6, 2, 4)), {}, r"v_BSKH: shape \(2, 6, 2, 4\); must be that of k_BSKH"),
        ((Q, (2, 6, 2, 4), KV), {}, r"k_BSKH: shape .* must be \[2, S, K, 8\]"),
        ((Q, (2, 6, 3, 8), (2, 6, 3, 8)), {}, "N: 4 query heads; must be a multiple of K=3"),
        ((Q, (2, 0, 2, 8), (2, 0, 2, 8)), {}, "k_BSKH: shape .* none of them 0"),
        ((Q[1:], KV, KV), {}, "q_BTNH: shape .* must have 4 dimensions"),
        (((3, *Q[1:]), (3, *KV[1:]), (3, *KV[1:])), {}, "B: 3 is not a multiple of mesh axes"),
        ((Q, KV, KV, (2, 4)), {}, "k_segments_BS: None, but q_segments_BT is given"),
        ((Q, KV, KV, (2, 5), (2, 6)), {}, r"q_segments_BT: shape \(2, 5\); must be \(2, 4\)"),
        ((Q, KV, KV, None, (2, 6)), {"ordered": True}, "q_segments_BT: None; ordered=True"),
        ((Q, KV, KV), {"frame_bits": 16}, "frame_bits: 16 with ordered=False"),
        ((Q, KV, KV), {"block": 0}, "block: 0; .* at least 1"),
        ((Q, KV, KV), {"softcap": -1.0}, "softcap: -1.0; "),
        ((Q, KV, KV), {"way": "teleport"}, "way: 'teleport'; one of rotate_queries"),
    ],
)
def test_arguments_that_do_not_fit(mesh_of, shapes, options, message):
    q, k, v, *ids = (None if shape is None else jnp.ones(shape) for shape in shapes)
    ids = (x if x is None else x.astype(jnp.int32) for x in ids)
    with jax.set_mesh(mesh_of(data=2)), pytest.raises(ValueError, match=message):
        lv_xattn(q, k, v, *ids, **options)


def test_kinds_that_do_not_fit(qkv):
    q, k, v, _ = qkv(1, 2, 3, 2, 1, 4)
    with pytest.raises(ValueError, match="k_BSKH: bfloat16; must be float32"):
        lv_xattn(q, k.astype(jnp.bfloat16), v)
    with pytest.raises(ValueError, match="q_BTNH: int32; must be a float dtype"):
        lv_xattn(q.astype(jnp.int32), k, v)
    with pytest.raises(ValueError, match="k_segments_BS: float32; must be integers"):
        lv_xattn(q, k, v, None, jnp.ones((1, 3)))


@pytest.mark.parametrize(
    "name, shape, message",
    [
        ("y", (2, 6, 5), r"y_BSC: shape .* must be \[1, S, C\]"),
        ("wq", (3, 2, 4), r"wq_DNH: shape .* must be \[8, N, H\]"),
        ("wk", (5, 1, 3), r"wk_CKH: shape .* must be \[5, K, 4\]"),
        ("wv", (5, 2, 4), "wv_CKH: shape .* must be that of wk_CKH"),
    ],
)
def test_features_and_weights_that_do_not_fit(rng, name, shape, message):
    inputs = dict(zip(("x", "y", "wq", "wk", "wv"), features(rng, 1, 4, 6, 8, 5, 2, 1, 4), strict=True))
    inputs[name] = jnp.ones(shape)
    with pytest.raises(ValueError, match=message):
        lv_xattn_projected(*inputs.values())
    with pytest.raises(ValueError, match="key_block: -1; "):
        lv_xattn_projected(*features(rng, 1, 4, 6, 8, 5, 2, 1, 4), key_block=-1)
