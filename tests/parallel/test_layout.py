"""Zigzag order: a permutation with an inverse, under which causal work is equal on every device and hop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwm.parallel.layout import natural_order, zigzag_order

devices, chunks, turns = st.integers(1, 12), st.integers(1, 9), st.integers(1, 4)


def test_device_i_holds_chunks_i_and_its_mirror():
    assert zigzag_order(16, 4).tolist() == [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]


def test_many_turns_go_to_and_fro():
    assert zigzag_order(16, 2, 2).tolist() == [0, 1, 8, 9, 6, 7, 14, 15, 2, 3, 10, 11, 4, 5, 12, 13]
    np.testing.assert_array_equal(zigzag_order(24, 3, 4), zigzag_order(24, 3))


@given(n=devices, stripe=st.integers(0, 9), turns=turns)
def test_natural_undoes_zigzag(n, stripe, turns):
    length = 2 * n * max(stripe, 1) * turns
    zigzag, natural = zigzag_order(length, n, stripe), natural_order(length, n, stripe)
    assert zigzag.dtype == natural.dtype == np.int32
    np.testing.assert_array_equal(zigzag[natural], np.arange(length))
    np.testing.assert_array_equal(natural[zigzag], np.arange(length))


@given(length=st.integers(0, 50))
def test_one_device_keeps_the_order(length):
    np.testing.assert_array_equal(zigzag_order(length, 1), np.arange(length))


@given(n=devices, chunk=chunks, turns=turns)
def test_causal_work_is_equal_on_every_device_in_every_hop(n, chunk, turns):
    shards = zigzag_order(2 * n * chunk * turns, n, chunk).reshape(n, -1)
    pairs = np.array([[np.sum(q[:, None] >= k) for k in shards] for q in shards])
    assert len(set(np.diag(pairs))) == 1
    np.testing.assert_array_equal(pairs[~np.eye(n, dtype=bool)], 2 * (turns * chunk) ** 2)


@given(n=devices, chunk=chunks, turns=turns)
def test_each_half_of_a_shard_is_in_causal_order(n, chunk, turns):
    halves = zigzag_order(2 * n * chunk * turns, n, chunk).reshape(2 * n, -1)
    assert np.all(np.diff(halves, axis=1) > 0)


@pytest.mark.parametrize(
    "length, n, stripe, words",
    [
        (10, 2, 0, "length: 10 is not a multiple of 4 "),
        (8, 3, 0, "length: 8 is not a multiple of 6 "),
        (12, 3, 3, r"length: 12 is not a multiple of 18 \(2 stripes of 3 x 3 devices"),
        (8, 0, 0, "n: 0"),
        (8, -1, 2, "n: -1"),
        (8, 2, -2, "stripe: -2"),
    ],
)
def test_what_cannot_be_cut(length, n, stripe, words):
    with pytest.raises(ValueError, match=words):
        zigzag_order(length, n, stripe)
