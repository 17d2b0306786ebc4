"""The ring against float64: every mask, layout, size of ring and kind of heads; out, dq, dk, dv and dsinks.

The default run takes combinations in which every pair of choices occurs; `-m slow` takes the whole matrix.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lwm.ops.masks import Mask

CHOICES = {
    "n": (1, 2, 3, 4, 5, 6, 8),
    "layout": ("zigzag", "contiguous"),
    "mask": ("full", "causal", "frames", "window"),
    "ids": ("none", "segments", "padding"),
    "softcap": (0.0, 3.0),
    "sinks": (False, True),
    "heads": ("MHA", "GQA", "MQA"),
}
MASKS = {"full": Mask(causal=False), "causal": Mask(), "frames": Mask(frame=7), "window": Mask(window=11)}
HEADS = {"MHA": (4, 4), "GQA": (4, 2), "MQA": (3, 1)}
ROWS = [
    (1, "zigzag", "full", "padding", 0.0, False, "MHA"),
    (1, "contiguous", "causal", "segments", 3.0, True, "GQA"),
    (1, "zigzag", "window", "none", 3.0, True, "MQA"),
    (1, "contiguous", "frames", "none", 0.0, True, "MQA"),
    (2, "zigzag", "causal", "padding", 3.0, False, "MQA"),
    (2, "contiguous", "window", "padding", 0.0, True, "GQA"),
    (2, "zigzag", "frames", "none", 0.0, True, "MHA"),
    (2, "zigzag", "full", "segments", 3.0, False, "MHA"),
    (3, "contiguous", "frames", "segments", 0.0, False, "GQA"),
    (3, "zigzag", "frames", "none", 3.0, True, "MHA"),
    (3, "contiguous", "window", "padding", 0.0, True, "MQA"),
    (3, "zigzag", "causal", "segments", 3.0, False, "MQA"),
    (3, "zigzag", "full", "padding", 3.0, False, "GQA"),
    (4, "contiguous", "frames", "padding", 0.0, True, "MQA"),
    (4, "zigzag", "full", "none", 3.0, False, "GQA"),
    (4, "zigzag", "causal", "segments", 3.0, False, "MHA"),
    (4, "zigzag", "window", "padding", 0.0, False, "MHA"),
    (5, "contiguous", "full", "segments", 3.0, True, "MHA"),
    (5, "zigzag", "causal", "none", 0.0, False, "MQA"),
    (5, "zigzag", "window", "padding", 3.0, True, "GQA"),
    (5, "contiguous", "frames", "padding", 3.0, True, "MHA"),
    (6, "zigzag", "window", "none", 0.0, True, "GQA"),
    (6, "contiguous", "full", "segments", 3.0, False, "MQA"),
    (6, "zigzag", "causal", "padding", 0.0, False, "MHA"),
    (6, "contiguous", "frames", "segments", 3.0, True, "GQA"),
    (8, "contiguous", "window", "none", 3.0, False, "MHA"),
    (8, "zigzag", "window", "segments", 0.0, True, "MQA"),
    (8, "zigzag", "full", "padding", 3.0, True, "GQA"),
    (8, "contiguous", "frames", "padding", 0.0, True, "MHA"),
    (8, "zigzag", "causal", "segments", 0.0, False, "MQA"),
]
CASES = {
    "full": {"mask": "full"},
    "causal": {"mask": "causal"},
    "frames": {"mask": "frames"},
    "window": {"mask": "window"},
    "segments": {"mask": "causal", "ids": "segments"},
    "padding": {"mask": "full", "ids": "padding"},
    "softcap": {"mask": "causal", "softcap": 3.0},
    "sinks": {"mask": "causal", "sinks": True},
}


def length(n, layout):
    """Positions: chunks that blocks and frames do not divide, or a length that n does not divide."""
    return 2 * n * max(-(-48 // (2 * n)), 5) if layout == "zigzag" else 47


@pytest.mark.parametrize("n, layout, mask, ids, softcap, sinks, heads", ROWS)
def test_pairs_of_choices(exact, mesh_of, rng, n, layout, mask, ids, softcap, sinks, heads):
    inputs = exact.make(rng, 2, length(n, layout), *HEADS[heads], ids=ids, sinks=sinks)
    exact.check(mesh_of(seq=n), *inputs, mask=MASKS[mask], layout=layout, softcap=softcap, block=5)


def test_the_rows_hold_every_pair_of_choices():
    def pairs(row):
        return set(itertools.combinations(enumerate(row), 2))

    every = set().union(*map(pairs, itertools.product(*CHOICES.values())))
    assert set().union(*map(pairs, ROWS)) == every


@pytest.mark.slow
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layout", CHOICES["layout"])
@pytest.mark.parametrize("n", CHOICES["n"])
def test_whole_matrix(exact, mesh_of, rng, n, layout, case, heads):
    case = {"ids": "none", "softcap": 0.0, "sinks": False} | CASES[case]
    inputs = exact.make(rng, 2, length(n, layout), *HEADS[heads], ids=case["ids"], sinks=case["sinks"])
    options = {"mask": MASKS[case["mask"]], "softcap": case["softcap"], "layout": layout, "block": 5}
    exact.check(mesh_of(seq=n), *inputs, **options)


def drawn(exact, mesh_of, data):
    n = data.draw(st.integers(1, 8), "n")
    layout = data.draw(st.sampled_from(CHOICES["layout"]), "layout")
    T = 2 * n * data.draw(st.integers(1, 6)) if layout == "zigzag" else data.draw(st.integers(1, 50), "T")
    K, G = data.draw(st.integers(1, 3), "K"), data.draw(st.integers(1, 3), "G")
    mask = data.draw(
        st.sampled_from([Mask(causal=False), Mask(), Mask(frame=data.draw(st.integers(2, 9)))])
        | st.builds(Mask, window=st.integers(1, 30), frame=st.integers(1, 5)),
        "mask",
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    arrays, _, sinks = exact.make(rng, 1, T, K * G, K, H=4, sinks=data.draw(st.booleans(), "sinks"))
    segments = np.sort(rng.integers(0, 4, size=(1, T))).astype(np.int32)
    block = data.draw(st.integers(1, 64), "block")
    segments = data.draw(st.sampled_from([None, segments]))
    exact.check(mesh_of(seq=n), arrays, segments, sinks, mask=mask, layout=layout, block=block)


QUIET = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@given(data=st.data())
@settings(max_examples=4, **QUIET)
def test_drawn_shapes(exact, mesh_of, data):
    drawn(exact, mesh_of, data)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=60, **QUIET)
def test_many_drawn_shapes(exact, mesh_of, data):
    drawn(exact, mesh_of, data)


@pytest.mark.parametrize("n, layout", [(4, "zigzag"), (3, "contiguous")])
def test_bfloat16_is_as_good_as_on_one_device(dense64, exact, mesh_of, rng, n, layout):
    """Root mean square errors of bfloat16 inputs in a ring, beside those of one device."""
    arrays, _, _ = exact.make(rng, 1, 96, 4, 2, H=16)
    arrays = tuple(np.asarray(x.astype(jnp.bfloat16)) for x in arrays)
    want = dense64.attention(*arrays, dense64.visible(96, 96)[None])
    options = {"mask": Mask(), "block": 16, "layout": layout}
    ring = exact.in_ring(mesh_of(seq=n), arrays, None, None, **options)
    alone = exact.in_ring(mesh_of(seq=1), arrays, None, None, **options)

    def rms(x, y):
        return float(np.sqrt(np.mean((np.asarray(x).astype(np.float64) - y) ** 2)))

    for in_ring_, on_one, exact in zip(ring, alone, want, strict=False):
        assert in_ring_.dtype == jnp.bfloat16
        assert 0 < rms(in_ring_, exact) <= 1.1 * rms(on_one, exact)


def test_frames_of_48_over_chunks_of_32(exact, mesh_of, rng):
    """Frames that straddle the cuts between devices, and between blocks."""
    for n, T, layout in ((4, 128, "contiguous"), (2, 128, "zigzag")):
        arrays, _, _ = exact.make(rng, 1, T, 2, 1)
        exact.check(mesh_of(seq=n), arrays, None, None, mask=Mask(frame=48), layout=layout, block=32)


@pytest.mark.parametrize(
    "n, mask, stripe, options",
    [
        pytest.param(3, Mask(), 4, {}, marks=pytest.mark.slow),
        (4, Mask(), 3, {"bidirectional": True}),
        (2, Mask(frame=7), 5, {"softcap": 3.0}),
        (5, Mask(window=11), 3, {}),
        pytest.param(8, Mask(causal=False), 2, {}, marks=pytest.mark.slow),
        pytest.param(2, Mask(frame=4), 4, {"bidirectional": True}, marks=pytest.mark.slow),
    ],
)
def test_stripes(exact, mesh_of, rng, n, mask, stripe, options):
    T = 2 * n * stripe * 3
    inputs = exact.make(rng, 1, T, 4, 2, ids="segments", sinks=True)
    exact.check(mesh_of(seq=n), *inputs, mask=mask, layout="zigzag", stripe=stripe, block=4, **options)
