"""Pictures by a classifier: the formula of the distance, what it does not depend on, intervals."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from lwm.evaluation.creation import conditional_accuracy, fd_cls, frechet_distance
from lwm.evaluation.intervals import wilson

C = 4


def draw(seed, rows, mean=0.0, spread=1.0):
    return np.random.default_rng(seed).normal(mean, spread, (rows, C))


def test_the_share_of_pictures_that_show_what_was_asked_for():
    score = conditional_accuracy([3, 1, 2, 2], [3, 1, 0, 2])
    assert score.value == 0.75 and (score.low, score.high) == wilson(3, 4)


def test_the_distance_is_its_formula():
    mix = draw(0, C)
    a, b = draw(1, 50) @ mix, draw(2, 70, mean=0.3)
    s, t = np.cov(a.T), np.cov(b.T)
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(s + t - 2 * np.real(sqrtm(s @ t)))
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-9)
    turn = np.linalg.qr(mix)[0]
    np.testing.assert_allclose(frechet_distance(a @ turn + 5, b @ turn + 5), expected, rtol=1e-9)


def test_the_distance_of_shifted_and_stretched_features_is_known():
    a = draw(0, 30)
    assert frechet_distance(a, a) < 1e-12
    np.testing.assert_allclose(frechet_distance(a, a + 2), 4 * C, rtol=1e-9)
    middle = a.mean(axis=0)
    np.testing.assert_allclose(frechet_distance(a, middle + 3 * (a - middle)), 4 * np.cov(a.T).trace())


def test_fewer_rows_than_columns_have_a_distance():
    a, b = draw(0, 3), draw(1, 3)
    assert 0 < frechet_distance(a, b) < np.inf


def test_the_distance_is_that_of_the_distributions_within_its_interval():
    true = C * (0.25**2 + 0.3**2)
    scores = [fd_cls(draw(seed, 60), draw(99 + seed, 60, 0.25, 1.3)) for seed in range(64)]
    assert all(score.low < score.value < score.high for score in scores)
    assert sum(score.low <= true <= score.high for score in scores) >= 54
    np.testing.assert_allclose(np.mean([score.value for score in scores]), true, atol=0.15)


def test_the_distance_of_equal_distributions_is_about_zero_however_few_the_rows():
    mix = draw(0, 3 * C).T
    few = [[np.tanh(draw(seed + own, 40) @ mix) for own in (0, 99)] for seed in range(16)]
    scores = [fd_cls(*pair) for pair in few]
    plain = np.mean([frechet_distance(*pair) for pair in few])
    assert abs(np.mean([score.value for score in scores])) < 0.1 * plain
    assert min(score.value for score in scores) < 0 < max(score.value for score in scores)
    assert sum(score.low <= 0 <= score.high for score in scores) >= 14
    assert all(score.low < score.value < score.high for score in scores)


def test_what_is_drawn_as_it_is_has_no_distance_and_no_doubt():
    same = fd_cls(draw(0, 40), draw(0, 40))
    np.testing.assert_allclose([same.value, same.low, same.high], 0, atol=1e-9)


def test_pairs_are_left_out_whole():
    a, b = draw(0, 9), draw(1, 9)
    without = [frechet_distance(np.delete(a, row, 0), np.delete(b, row, 0)) for row in range(9)]
    np.testing.assert_allclose(fd_cls(a, b).value, 9 * frechet_distance(a, b) - 8 * np.mean(without))
    assert fd_cls(a, b).value != pytest.approx(fd_cls(a, b[::-1]).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conditional_accuracy([], []), "found_N: shape"),
        (lambda: conditional_accuracy([1, 2], [1]), "found_N: shape"),
        (lambda: frechet_distance(draw(0, 1), draw(1, 9)), "features_NC: shape .1, 4."),
        (lambda: frechet_distance(draw(0, 9), draw(1, 9)[:, 1:]), "others_MC: shape .9, 3."),
        (lambda: fd_cls(draw(0, 9), draw(1, 8)), "drawn_NC: 9 rows for 8 real ones"),
        (lambda: fd_cls(draw(0, 2), draw(1, 2)), "drawn_NC: 2 rows"),
    ],
)
def test_what_has_no_score_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
