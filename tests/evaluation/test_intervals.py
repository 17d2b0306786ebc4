import numpy as np
import pytest

from lwm.evaluation.intervals import bootstrap, student, wilson


def test_wilson_intervals_are_the_published_ones():
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_a_bootstrap_of_single_members_is_near_the_normal_interval():
    right = np.arange(400) % 4 == 0
    low, high = bootstrap(right, np.ones(400))
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_members_that_agree_within_groups_widen_it():
    alone = bootstrap([1.0, 0.0] * 200, np.ones(400))
    groups = bootstrap([4.0, 0.0] * 50, np.full(100, 4.0))
    assert groups[1] - groups[0] == pytest.approx(2 * (alone[1] - alone[0]), rel=0.15)


def test_one_group_says_nothing_and_equal_ones_no_spread():
    assert bootstrap([3.0], [4.0]) == (None, None)
    assert bootstrap([2.0] * 5, [4.0] * 5) == (0.5, 0.5)


def test_a_bootstrap_is_the_same_every_time():
    sums, counts = [1, 2, 0, 3, 5, 1, 7, 9.5, 8], [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert bootstrap(sums, counts) == bootstrap(sums, counts) != bootstrap(sums, counts, seed=1)


def test_student_s_interval_of_three_seeds():
    # Mean 2, standard error 1 / sqrt(3), and 4.3027 of them with two degrees of freedom.
    half = 4.302653 / np.sqrt(3)
    assert student([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert student([2.0]) == (-np.inf, np.inf)
