"""Zigzag order: a permutation with an inverse, under which causal work is equal on every device and hop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lwm.parallel.layout import natural_order, striped_order, zigzag_order

devices, chunks = st.integers(1, 12), st.integers(1, 9)


def test_device_i_holds_chunks_i_and_its_mirror():
    assert zigzag_order(16, 4).tolist() == [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]


@given(n=devices, chunk=chunks)
def test_natural_undoes_zigzag(n, chunk):
    length = 2 * n * chunk
    zigzag, natural = zigzag_order(length, n), natural_order(length, n)
    assert zigzag.dtype == natural.dtype == np.int32
    np.testing.assert_array_equal(zigzag[natural], np.arange(length))
    np.testing.assert_array_equal(natural[zigzag], np.arange(length))


@given(length=st.integers(0, 50))
def test_one_device_keeps_the_order(length):
    np.testing.assert_array_equal(zigzag_order(length, 1), np.arange(length))


@given(n=devices, chunk=chunks)
def test_causal_work_is_equal_on_every_device_in_every_hop(n, chunk):
    shards = zigzag_order(2 * n * chunk, n).reshape(n, -1)
    pairs = np.array([[np.sum(q[:, None] >= k) for k in shards] for q in shards])
    assert len(set(np.diag(pairs))) == 1
    np.testing.assert_array_equal(pairs[~np.eye(n, dtype=bool)], 2 * chunk * chunk)


@given(n=devices, chunk=chunks)
def test_local_order_is_causal_order(n, chunk):
    shards = zigzag_order(2 * n * chunk, n).reshape(n, -1)
    assert n == 1 or np.all(np.diff(shards, axis=1) > 0)


@pytest.mark.parametrize("length, n", [(10, 2), (8, 3), (15, 4), (8, 0), (8, -1)])
def test_lengths_that_cannot_be_cut(length, n):
    with pytest.raises(ValueError, match=str(n if n < 1 else length)):
        zigzag_order(length, n)


def test_stripes_are_dealt_out_in_turn():
    assert striped_order(12, 3, 2).tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    np.testing.assert_array_equal(striped_order(7, 1, 5), np.arange(7))


@pytest.mark.parametrize("length, n, stripe", [(12, 3, 3), (8, 0, 1), (8, 2, 0)])
def test_stripes_that_cannot_be_cut(length, n, stripe):
    with pytest.raises(ValueError, match="length|stripe"):
        striped_order(length, n, stripe)
