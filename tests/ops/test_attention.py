"""The dense reference against a loop, blocks against the reference, and what must never become NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.attention import attend_block, attend_block_grad, attention, merge
from lwm.ops.masks import Mask

HEADS = {"MHA": (4, 4), "GQA": (4, 2), "MQA": (3, 1)}


def close(got, want, atol=1e-5):
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), atol=atol, rtol=0)


@functools.partial(jax.jit, static_argnames=("causal", "block"))
def gradients(q, k, v, dout, segments, causal, block):
    """(out, dq, dk, dv) by blocks."""
    out, lse = attend_block(q, k, v, *segments, mask=Mask(causal=causal), block=block)
    delta = jnp.sum(dout * out, axis=-1)
    grads = attend_block_grad(q, k, v, *segments, dout, lse, delta, mask=Mask(causal=causal), block=block)
    return out, *grads


@functools.partial(jax.jit, static_argnames=("causal",))
def reference(q, k, v, dout, segments, causal):
    """(out, dq, dk, dv) of the dense reference by automatic differentiation."""
    fn = functools.partial(attention, causal=causal, q_segments_BT=segments[0], k_segments_BS=segments[1])
    out, pull = jax.vjp(fn, q, k, v)
    return out, *pull(dout)


def test_reference_is_softmax_row_by_row(qkv):
    q, k, v, _ = (np.asarray(x, np.float64) for x in qkv(1, 4, 6, 2, 1, 3))
    segments = np.array([[1, 2, 2, 0]]), np.array([[1, 1, 2, 2, 0, 2]])
    got = attention(
        *map(jnp.float32, (q, k, v)), causal=True, q_segments_BT=segments[0], k_segments_BS=segments[1]
    )
    for i in range(4):
        sees = [j for j in range(i + 1) if segments[0][0, i] == segments[1][0, j] > 0]
        for n in range(2):
            scores = np.array([q[0, i, n] @ k[0, j, 0] for j in sees]) / np.sqrt(3)
            weights = np.exp(scores) / np.sum(np.exp(scores))
            close(
                got[0, i, n], sum((w * v[0, j, 0] for w, j in zip(weights, sees, strict=True)), np.zeros(3))
            )


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("causal, T, S, block", [(True, 21, 21, 8), (False, 13, 22, 5), (True, 8, 8, 64)])
@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_blocks_equal_the_reference(qkv, packed, heads, causal, T, S, block, masked):
    q, k, v, dout = qkv(2, T, S, *HEADS[heads], 6)
    segments = (packed(2, max(T, S))[:, :T], packed(2, max(T, S))[:, :S]) if masked else (None, None)
    if masked and causal:
        segments = segments[0], segments[0]
    got = gradients(q, k, v, dout, segments, causal, block)
    for x, y in zip(got, reference(q, k, v, dout, segments, causal), strict=True):
        assert x.dtype == jnp.float32
        close(x, y)


@pytest.mark.parametrize("block", [2, 4, 64])
def test_rows_that_see_nothing_are_exactly_zero(qkv, block):
    q, k, v, dout = qkv(1, 8, 8, 2, 1, 4)
    # Rows 0-1 are padding; rows 2-3 have no key of their segment; rows 4-7 see nothing in the first blocks.
    segments = jnp.array([[0, 0, 5, 5, 2, 2, 2, 2]]), jnp.array([[1, 1, 0, 0, 1, 1, 2, 2]])
    for causal in (False, True):
        dense = reference(q, k, v, dout, segments, causal)
        blocks = gradients(q, k, v, dout, segments, causal, block)
        for out, dq, dk, dv in (dense, blocks):
            assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))
            assert not np.any(out[:, :4]) and not np.any(dq[:, :4])
            assert not np.any(dk[:, :6]) and not np.any(dv[:, :6])
        assert np.any(blocks[0][:, 6:])
        lse = attend_block(q, k, v, *segments, mask=Mask(causal=causal), block=block)[1]
        assert np.all(lse[:, :4] == -np.inf) and np.all(np.isfinite(lse[:, 6:]))


def test_blocks_above_the_diagonal_are_never_read(qkv):
    q, k, v, dout = qkv(1, 12, 12, 2, 2, 4)
    hidden = k.at[:, 8:].set(jnp.nan), v.at[:, 8:].set(jnp.nan)
    out, dq, _, _ = gradients(q, *hidden, dout, (None, None), True, 4)
    want = reference(q, k, v, dout, (None, None), True)
    close(out[:, :8], want[0][:, :8])
    close(dq[:, :8], want[1][:, :8])


def test_blocks_without_a_common_segment_are_never_read(qkv):
    q, k, v, dout = qkv(1, 12, 12, 2, 2, 4)
    segments = jnp.array([[1] * 4 + [2] * 4 + [3] * 4])
    hidden = k.at[:, :4].set(jnp.nan), v.at[:, :4].set(jnp.nan)
    for causal in (False, True):
        got = gradients(q, *hidden, dout, (segments, segments), causal, 4)
        want = reference(q, k, v, dout, (segments, segments), causal)
        for x, y in zip(got, want, strict=True):
            close(x[:, 4:], y[:, 4:])


def equations(jaxpr):
    """All equations of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_nothing_of_size_t_by_s_is_computed(qkv):
    T = 64
    q, k, v, dout = qkv(1, T, T, 1, 1, 2)
    segments = jnp.ones((1, T), jnp.int32)
    jaxpr = jax.make_jaxpr(gradients, static_argnums=(5, 6))(q, k, v, dout, (segments, segments), True, 8)
    assert max(x.aval.size for equation in equations(jaxpr.jaxpr) for x in equation.outvars) < T * T / 4


def test_merge_joins_disjoint_keys(qkv):
    q, k, v, _ = qkv(2, 5, 12, 4, 2, 6)
    part = jax.jit(functools.partial(attend_block, q, mask=Mask(causal=False), block=4))
    nothing = jnp.zeros(q.shape), jnp.full(q.shape[:-1], -jnp.inf)
    whole = part(k, v)
    joined = merge(merge(part(k[:, 7:], v[:, 7:]), nothing), part(k[:, :7], v[:, :7]))
    for x, y in zip(joined, whole, strict=True):
        close(x, y)
    out, lse = merge(nothing, nothing)
    assert not np.any(out) and np.all(lse == -np.inf)
    slope = jax.grad(lambda a, b: jnp.sum(merge((q, a), (q, b))[0]))(nothing[1], nothing[1])
    assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("causal", [False, True])
def test_bfloat16_stays_bfloat16_in_products_and_adds_up_in_float32(qkv, causal):
    q, k, v, dout = qkv(1, 64, 64, 4, 2, 16, jnp.bfloat16)
    got = gradients(q, k, v, dout, (None, None), causal, 16)
    want = reference(*(x.astype(jnp.float32) for x in (q, k, v, dout)), (None, None), causal)
    for x, y in zip(got, want, strict=True):
        assert x.dtype == jnp.float32
        close(x, y, atol=0.02 * float(jnp.max(jnp.abs(y))))
    jaxpr = jax.make_jaxpr(gradients, static_argnums=(5, 6))(q, k, v, dout, (None, None), causal, 16)
    products = [e for e in equations(jaxpr.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) == (14 if causal else 7)
    for product in products:
        assert {x.aval.dtype for x in product.invars} == {jnp.dtype("bfloat16")}
        assert product.outvars[0].aval.dtype == jnp.float32
    assert attention(q, k, v, causal=causal).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "shapes, causal, words",
    [((4, 4, 4, 3), False, "4 heads"), ((4, 4, 3, 2), True, "3 heads")],
)
def test_shapes_that_cannot_be(qkv, shapes, causal, words):
    T, S, N, K = shapes
    q, k, v, _ = qkv(1, T, S, N, K, 2)
    with pytest.raises(ValueError, match=words):
        attend_block(q, k, v, mask=Mask(causal=causal), block=4)


def test_segments_on_one_side_only(qkv):
    q, k, v, _ = qkv(1, 4, 4, 1, 1, 2)
    with pytest.raises(ValueError, match="segments"):
        attend_block(q, k, v, jnp.ones((1, 4), jnp.int32), mask=Mask(), block=4)
