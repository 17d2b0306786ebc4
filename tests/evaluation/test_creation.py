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


def test_the_interval_of_the_distance_holds_that_of_the_distributions():
    true = C * (0.25**2 + 0.3**2)
    scores = [fd_cls(draw(seed, 150), draw(99 + seed, 150, 0.25, 1.3), draws=60) for seed in range(12)]
    assert sum(score.low <= true <= score.high for score in scores) >= 9
    same = fd_cls(draw(0, 150), draw(1, 150), draws=60)
    assert same.low == 0 and same.high < min(score.value for score in scores)
    assert same == fd_cls(draw(0, 150), draw(1, 150), draws=60)
    assert same.high != fd_cls(draw(0, 150), draw(1, 150), draws=60, seed=1).high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conditional_accuracy([], []), "found_N: shape"),
        (lambda: conditional_accuracy([1, 2], [1]), "found_N: shape"),
        (lambda: frechet_distance(draw(0, 1), draw(1, 9)), "features_NC: shape .1, 4."),
        (lambda: frechet_distance(draw(0, 9), draw(1, 9)[:, 1:]), "others_MC: shape .9, 3."),
    ],
)
def test_what_has_no_score_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
