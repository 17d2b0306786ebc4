"""Intervals: bootstraps, blocks and profiles, and how often they hold what they should."""

import math

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.scaling import laws, resampling
from lwm.scaling.fitting import fit
from lwm.scaling.profiles import profile_interval, profile_intervals
from lwm.scaling.resampling import block_bootstrap, intervals, percentiles, residual_bootstrap
from lwm.scaling.runs_table import make_runs

CHINCHILLA, LINE = laws.chinchilla(), laws.hypothesis(performance="log loss")
TRUTH = {"E": 1.8172, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}


def draw(seed, noise=0.01):
    """64 runs of the published law with errors of 1 %, log-normal."""
    parameters, tokens = np.meshgrid(np.geomspace(5e7, 1e10, 8), np.geomspace(1e9, 3e11, 8))
    runs = make_runs(parameters.ravel(), tokens.ravel())
    loss = CHINCHILLA.predict(CHINCHILLA.theta(**TRUTH), runs)
    return runs._replace(loss=loss * np.exp(noise * np.random.default_rng(seed).standard_normal(runs.size)))


def line(seed, count=30, noise=0.05):
    rng = np.random.default_rng(seed)
    runs = make_runs(rng.uniform(1e4, 1e6, count), rng.uniform(1e5, 1e7, count))
    return runs._replace(loss=LINE.predict([4.0, 0.1], runs) * np.exp(noise * rng.standard_normal(count)))


def test_profile_of_a_line_is_students_interval():
    runs = line(0)
    found = fit(LINE, runs, delta=math.inf)
    design = LINE.design(runs)
    variance = np.square(found.residuals).sum() / 28
    error = math.sqrt(variance * np.linalg.inv(design.T @ design)[1, 1])
    low, high = profile_interval(found, "slope")
    assert (low, high) == pytest.approx(
        (found.theta[1] - 2.0484 * error, found.theta[1] + 2.0484 * error), rel=1e-3
    )


def test_bootstraps_of_a_line_agree_with_its_standard_error():
    runs = line(1, count=60)
    found = fit(LINE, runs, delta=math.inf)
    design = LINE.design(runs)
    error = math.sqrt(np.square(found.residuals).sum() / 58 * np.linalg.inv(design.T @ design)[1, 1])
    for drawn in (residual_bootstrap(found, 600), block_bootstrap(found, draws=600)):
        assert drawn[:, 1].mean() == pytest.approx(found.theta[1], abs=0.2 * error)
        assert drawn[:, 1].std() == pytest.approx(error, rel=0.2)


def test_errors_that_vanished_are_not_dealt_out(monkeypatch):
    """Where a fit goes through its runs, an error of nothing is no sample of the errors."""
    found, drawn = fit(LINE, line(5), delta=1e-3), []
    bare = np.sort(abs(found.residuals))
    assert bare[1] < 1e-3  # two parameters, two runs that it goes through
    monkeypatch.setattr(resampling, "refit", lambda found, runs, white: drawn.append(runs) or found)
    residual_bootstrap(found, 50)
    noise = np.log(np.array([runs.loss for runs in drawn]) / found.predict(found.runs))
    assert abs(noise).min() > bare[1]
    assert np.std(noise) > np.std(found.residuals)


def test_blocks_find_what_runs_share():
    """Ten seeds, each with an error of its own in all its runs: runs drawn one by one know nothing of it."""
    rng = np.random.default_rng(2)
    runs, seeds = line(2, count=200, noise=0.001), np.repeat(np.arange(10), 20)
    runs = runs._replace(loss=runs.loss * np.exp(0.1 * rng.standard_normal(10))[seeds])
    found = fit(LINE, runs, delta=math.inf)
    level = LINE.design(runs).mean(0)
    alone, whole = (block_bootstrap(found, blocks, 300) @ level for blocks in (None, seeds))
    assert whole.std() > 3 * alone.std()
    assert whole.std() == pytest.approx(0.1 / math.sqrt(10), rel=0.5)


def test_draws_are_those_of_their_seed_and_levels_are_nested():
    found = fit(LINE, line(3))
    one, same, other = (residual_bootstrap(found, 40, seed=seed) for seed in (0, 0, 1))
    assert (one == same).all() and not (one == other).all()
    (low, high), (lower, higher) = (intervals(found, one, level)["slope"] for level in (0.5, 0.95))
    assert lower < low < high < higher
    assert percentiles(np.arange(101.0)[:, None], 0.9)[0] == pytest.approx((5, 95))


def test_profile_stays_open_where_runs_say_nothing():
    """Without an end in sight, no irreducible loss is too small."""
    parameters, tokens = np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(1e5, 1e7, 6))
    runs = make_runs(parameters.ravel(), tokens.ravel())
    loss = CHINCHILLA.predict(CHINCHILLA.theta(E=1e-3, A=40, B=60, alpha=0.2, beta=0.2), runs)
    runs = runs._replace(loss=loss * np.exp(0.02 * np.random.default_rng(0).standard_normal(runs.size)))
    low, high = profile_interval(fit(CHINCHILLA, runs, delta=math.inf), "E")
    assert low == pytest.approx(0, abs=1e-6) and high > 0.1


def test_intervals_of_a_few_draws_hold_the_truth_more_often_than_not():
    """The quick version of the coverage below."""
    hits = coverage(range(6), lambda found: profile_intervals(found), delta=1e-3)
    assert hits.mean() >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "way, delta",
    [("profile", 1e-3), ("profile", math.inf), ("residuals", 1e-3), ("residuals", math.inf)],
)
def test_intervals_of_95_percent_hold_the_truth_in_93_or_more(way, delta):
    ways = {
        "profile": profile_intervals,
        "residuals": lambda found: intervals(found, residual_bootstrap(found, 300)),
    }
    hits = coverage(range(200), ways[way], delta)
    print(way, delta, dict(zip(TRUTH, hits.mean(0).tolist(), strict=True)), hits.mean())
    assert hits.mean() >= 0.93


def coverage(seeds, way, delta) -> np.ndarray:
    """Whether the interval of each parameter holds the truth: bool [seeds, parameters]."""
    found = [way(fit(CHINCHILLA, draw(seed), delta=delta)) for seed in seeds]
    return np.array([[low <= TRUTH[name] <= high for name, (low, high) in each.items()] for each in found])


def test_bad_questions_are_one_line():
    found = fit(LINE, line(4))
    with pytest.raises(UserError, match="profile: no 'E' in hypothesis, one slope, log loss; its"):
        profile_interval(found, "E")
    with pytest.raises(UserError, match="draws: 1;"):
        residual_bootstrap(found, 1)
    with pytest.raises(UserError, match="blocks: 30 of 30 runs; give each one, not all the same"):
        block_bootstrap(found, np.zeros(30))
