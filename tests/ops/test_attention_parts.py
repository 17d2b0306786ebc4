"""Attention in parts, at global positions: defects that others have had, and shapes drawn at random."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwm.ops.attention import attend_block, attend_block_grad
from lwm.ops.masks import EVERYTHING, Mask


@functools.partial(jax.jit, static_argnames=("mask", "block", "cuts", "softcap"))
def in_parts(q, k, v, dout, ids, q_start, k_start, mask, block, cuts, softcap=0.0):
    """(out, dq, dk, dv), keys coming in parts that are cut at `cuts`, one added to the other."""
    edges, part = [0, *cuts, k.shape[1]], None
    common = {"mask": mask, "block": block, "softcap": softcap, "q_start": q_start}
    slices = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
    q_ids, k_ids = ids

    def here(x, keys):
        return None if x is None else x[:, keys]

    for keys in slices:
        place = {"k_start": k_start + keys.start, "part": part, **common}
        part = attend_block(q, k[:, keys], v[:, keys], q_ids, here(k_ids, keys), **place)
    out, lse = part
    delta, grads = jnp.sum(dout * out, axis=-1), []
    for keys in slices:
        args = q, k[:, keys], v[:, keys], q_ids, here(k_ids, keys), dout, lse, delta
        grads.append(attend_block_grad(*args, k_start=k_start + keys.start, **common))
    dq, dk, dv = zip(*grads, strict=True)
    return out, sum(dq), jnp.concatenate(dk, axis=1), jnp.concatenate(dv, axis=1)


def check(dense64, arrays, ids, q_start, k_start, mask, block, cuts, softcap=0.0, limits=(2e-6, 5e-6)):
    got = in_parts(*arrays, ids, q_start, k_start, mask, block, cuts, softcap)
    T, S = arrays[0].shape[1], arrays[1].shape[1]
    seen = dense64.visible(T, S, mask.causal, mask.frame, mask.window, q_start, k_start)[None]
    if ids[0] is not None:
        seen = seen & dense64.same_segment(*map(np.asarray, ids), mask.ordered)
    want = dense64.attention(*arrays, seen, softcap)
    for i, (x, y) in enumerate(zip(got, want, strict=False)):
        assert np.all(np.isfinite(x))
        assert dense64.error(x, y) <= limits[i > 0]
    return got


def test_sixteen_keys(dense64, qkv):
    """No phantom key: with so few, one more in the denominator would be an error of several per cent."""
    check(dense64, qkv(1, 8, 16, 2, 2, 16), (None, None), 0, 0, EVERYTHING, 8, (5, 11))


@pytest.mark.parametrize("logit", [-10.0, 90.0])
def test_logits_far_from_zero(dense64, qkv, logit):
    """All scores shifted: nothing overflows, and a sum that starts at log 1 would show."""
    q, k, v, dout = qkv(1, 8, 16, 2, 2, 16)
    q, k = q.at[..., 0].set(4.0), k.at[..., 0].set(logit)  # 4 x logit x 16 ** -0.5 = logit
    # float32 scores near 90 are exact to 4e-6 only, and so are their exponentials; along the shift, where dq
    # is 0, it is a difference of terms 90 times as large as elsewhere.
    limit = (2e-6, 5e-6) if logit < 0 else (3e-5, 3e-4)
    check(dense64, (q, k, v, dout), (None, None), 0, 0, EVERYTHING, 8, (5, 11), limits=limit)


def test_the_first_block_that_is_visited_is_fully_masked(dense64, qkv):
    """By segments inside a live tile, by a window, and by a whole part that nobody sees."""
    arrays = qkv(1, 8, 24, 2, 1, 8)
    q_ids = jnp.array([[1, 1, 1, 1, 2, 2, 2, 0]])
    k_ids = jnp.array([[2] * 8 + [1] * 4 + [2] * 4 + [0] * 8])
    out, dq, dk, dv = check(dense64, arrays, (q_ids, k_ids), 16, 0, Mask(), 8, (8,))
    assert not np.any(out[:, 7]) and not np.any(dq[:, 7])
    assert not np.any(dk[:, 16:]) and not np.any(dv[:, 16:])
    check(dense64, arrays, (None, None), 16, 0, Mask(window=3), 8, (8,))


def test_frames_of_48_over_chunks_of_32(dense64, qkv):
    for q_start, k_start in ((32, 32), (32, 64), (64, 32), (96, 0)):
        check(dense64, qkv(1, 32, 32, 1, 1, 8), (None, None), q_start, k_start, Mask(frame=48), 32, ())


def test_ordered_segments(dense64, qkv):
    """A query sees the segments up to its own."""
    q_ids = jnp.array([[0, 1, 1, 2, 2, 3, 3, 3, 3, 3]])
    k_ids = jnp.array([[1] * 6 + [2] * 6 + [0] * 2 + [3] * 4])
    mask = Mask(causal=False, ordered=True)
    out, *_ = check(dense64, qkv(1, 10, 18, 4, 2, 8), (q_ids, k_ids), 0, 0, mask, 4, (7,))
    assert not np.any(out[:, 0])


MASKS = st.one_of(
    st.sampled_from([Mask(), EVERYTHING]),
    st.builds(Mask, frame=st.integers(1, 9), window=st.integers(0, 20)),
)


@pytest.mark.slow
@given(data=st.data())
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_drawn_shapes(dense64, qkv, data):
    T, S = data.draw(st.integers(1, 40), "T"), data.draw(st.integers(1, 40), "S")
    K, G = data.draw(st.integers(1, 3), "K"), data.draw(st.integers(1, 3), "G")
    q_start, k_start = data.draw(st.integers(0, 50), "q_start"), data.draw(st.integers(0, 50), "k_start")
    mask, block = data.draw(MASKS, "mask"), data.draw(st.integers(1, 45), "block")
    cuts = (data.draw(st.integers(1, S - 1), "cut"),) if S > 1 and data.draw(st.booleans()) else ()
    ids = None, None
    if data.draw(st.booleans(), "segments"):
        rng = np.random.default_rng(data.draw(st.integers(0, 9)))
        ids = tuple(jnp.asarray(np.sort(rng.integers(0, 4, (1, length)))) for length in (T, S))
    softcap = data.draw(st.sampled_from([0.0, 2.0]), "softcap")
    check(dense64, qkv(1, T, S, K * G, K, 4), ids, q_start, k_start, mask, block, cuts, softcap)
