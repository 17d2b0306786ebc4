"""Masks: every piece of arithmetic against looking at all pairs of positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.masks import Mask

MASKS = [
    Mask(),
    Mask(causal=False),
    Mask(frame=5),
    Mask(window=1),
    Mask(window=6),
    Mask(frame=4, window=6),
    Mask(ordered=True),
]


@pytest.mark.parametrize("mask", MASKS)
def test_visible_is_the_definition(dense64, mask):
    got = mask.visible(7 + np.arange(20), 3 + np.arange(25))
    want = dense64.visible(20, 25, mask.causal, mask.frame, mask.window, 7, 3)
    np.testing.assert_array_equal(got, want)
    traced = jax.jit(mask.visible)(7 + jnp.arange(20), 3 + jnp.arange(25))
    np.testing.assert_array_equal(traced, want)


@pytest.mark.parametrize("mask", MASKS)
def test_tiles_are_dead_or_whole_exactly_when_they_look_so(mask, rng):
    seen = mask.visible(np.arange(40), np.arange(40))
    dead_ones = whole_ones = 0
    for _ in range(300):
        (a, b), (c, d) = (np.sort(rng.integers(0, 40, size=2)) for _ in range(2))
        tile = seen[a : b + 1, c : d + 1]
        # Frames and windows together may hide everything in a tile that neither hides alone.
        if mask.frame == 1 or not mask.window:
            assert mask.dead(a, b, c, d) == (not tile.any())
        assert not (mask.dead(a, b, c, d) and tile.any())
        assert mask.whole(a, b, c, d) == tile.all()
        dead_ones, whole_ones = dead_ones + mask.dead(a, b, c, d), whole_ones + mask.whole(a, b, c, d)
        for bounds, axis in (
            (mask.keys_of(a, b), seen[a : b + 1].any(axis=0)),
            (mask.queries_of(c, d), seen[:, c : d + 1].any(axis=1)),
        ):
            first, last = (x if x is not None else other for x, other in zip(bounds, (0, 39), strict=True))
            want = np.flatnonzero(axis)
            assert (max(first, 0), min(last, 39)) == (want[0], want[-1])
    assert (whole_ones or mask.window == 1) and (dead_ones or mask.everything)


@pytest.mark.parametrize("mask", [Mask(), Mask(ordered=True), Mask(ordered=True, frame_bits=2)])
def test_ranges_of_ids(dense64, mask, rng):
    """With two bits for frames, ids 1 to 3 are of one clip, 5 to 7 of the next; 4 sees nothing yet."""
    kinds = set()
    for _ in range(300):
        low = rng.integers(0, 7)
        q, k = low + rng.integers(0, 2, size=3), rng.integers(0, 7) + rng.integers(0, 2, size=3)
        if mask.frame_bits:
            k = np.where(k % 4 == 0, 0, k)
        seen = mask.sees_ids(q[:, None], k[None])
        want = dense64.same_segment(q[None], k[None], mask.ordered, mask.frame_bits)[0]
        np.testing.assert_array_equal(seen, want)
        assert not seen[:, k == 0].any() and not seen[q == 0].any()
        spans = []
        for ids in (q, k):
            real = ids[ids > 0]
            spans += [real.min(), real.max()] if real.size else [99, 0]
        dead = mask.ids_dead(*spans)
        assert not (dead and seen.any())
        whole = mask.ids_whole(*spans) and (q > 0).all() and (k > 0).all()
        assert whole == seen.all()
        # A range of ids that all are there is dead exactly if nothing is seen.
        if (k == k[0]).all() or not mask.frame_bits:
            assert dead == (not seen.any())
        kinds.add((bool(dead), bool(whole)))
    assert kinds == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize(
    "bad, words",
    [
        ({"frame": 0}, "frame: 0"),
        ({"window": -1}, "window: -1"),
        ({"causal": False, "window": 3}, "window=3"),
        ({"causal": False, "frame": 3}, "frame=3"),
        ({"frame_bits": 4}, "frame_bits: 4 with ordered=False"),
        ({"ordered": True, "frame_bits": 31}, "frame_bits: 31; .* 0 to 30"),
    ],
)
def test_masks_that_cannot_be(bad, words):
    with pytest.raises(ValueError, match=words):
        Mask(**bad)


def test_masks_are_static():
    assert hash(Mask(frame=3)) == hash(Mask(frame=3)) and Mask(frame=3) != Mask()
