"""Comparison: criteria by hand, errors by hand, and a law that is right against one that is not."""

import dataclasses
import math

import numpy as np
import pytest
from scipy.integrate import quad

from lwm.errors import UserError
from lwm.scaling import comparison, laws
from lwm.scaling.fitting import Fit, fit, huber
from lwm.scaling.runs_table import make_runs

CHINCHILLA, LINE = laws.chinchilla(), laws.hypothesis()


def runs_of(law, theta, noise=0.005, seed=0):
    parameters, tokens = np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(1e5, 1e7, 6))
    runs = make_runs(parameters.ravel(), tokens.ravel())
    rng = np.random.default_rng(seed)
    return runs._replace(loss=law.predict(theta, runs) * np.exp(noise * rng.standard_normal(runs.size)))


CURVED = runs_of(CHINCHILLA, CHINCHILLA.theta(E=1.5, A=40, B=300, alpha=0.4, beta=0.45))


def test_aicc_by_hand():
    """Losses 2, 3, 4, 3, 5 of a law that says 3 with errors of the loss: the squares sum to 6."""
    loss = np.array([2.0, 3, 4, 3, 5])
    runs = make_runs(np.full(5, math.e), np.full(5, 1.0), loss)
    found = Fit(dataclasses.replace(LINE), np.array([3.0, 0]), runs, math.inf, "loss", 3.0)
    likelihood = -2.5 * (math.log(2 * math.pi * 6 / 5) + 1)
    assert comparison.log_likelihood(found) == pytest.approx(likelihood)
    # Two parameters and the variance: 2 * 3 - 2 * likelihood + 2 * 3 * 4 / (5 - 3 - 1).
    assert comparison.aicc(found) == pytest.approx(6 - 2 * likelihood + 24)


@pytest.mark.parametrize("delta", [1e-3, 0.01, 0.2])
def test_likelihood_of_hubers_density_is_that_of_a_density(delta):
    found = fit(CHINCHILLA, CURVED, delta=delta, space="loss")
    residuals = found.residuals

    def total(s):
        mass = 2 * quad(lambda r: math.exp(-float(huber(np.array(r), delta)) / s), 0, 1, points=[delta])[0]
        return -len(residuals) * math.log(mass) - huber(residuals, delta).sum() / s

    middle = found.objective / len(residuals)
    scales = middle * np.geomspace(0.02, 20, 4001)
    inside = [s for s in scales if 1 / s * delta > 60]  # beyond 1 the density is then nothing
    assert comparison.log_likelihood(found) == pytest.approx(max(map(total, inside[::40])), abs=0.2)
    assert all(total(s) <= comparison.log_likelihood(found) + 1e-6 for s in inside[::40])


def test_wide_huber_is_least_squares():
    wide, squares = (fit(CHINCHILLA, CURVED, delta=delta) for delta in (50.0, math.inf))
    assert comparison.aicc(wide) == pytest.approx(comparison.aicc(squares), abs=1e-3)


def test_fits_of_loss_and_log_loss_are_on_one_scale():
    """Errors so small that a log-normal density is a normal one."""
    one, other = (fit(CHINCHILLA, CURVED, delta=math.inf, space=space) for space in ("loss", "log loss"))
    assert comparison.aicc(one) == pytest.approx(comparison.aicc(other), abs=20)
    assert abs(comparison.log_likelihood(one)) > 20


def test_aicc_needs_runs_to_spare():
    runs = CURVED.take(np.arange(0, 36, 6))
    with pytest.raises(UserError, match="aicc: 6 runs for 5 parameters; give 8"):
        comparison.aicc(fit(CHINCHILLA, runs))


def test_bias_has_the_sign_of_too_much_loss_promised():
    predicted, measured = np.array([1.0, 2.0]), np.array([2.0, 2.0])
    assert comparison.bias(predicted, measured) == -0.5
    assert comparison.rmse(predicted, measured) == pytest.approx(math.sqrt(0.5))


def test_largest_size_and_largest_length_are_held_out():
    mask = comparison.largest(CURVED)
    assert mask.sum() == 11
    assert (mask == ((CURVED.parameters > 9e5) | (CURVED.tokens[:, 0] > 9e6))).all()


def test_right_law_is_found_and_extrapolates():
    mask = comparison.largest(CURVED)
    train, test = CURVED.take(~mask), CURVED.take(mask)
    right, wrong = (
        comparison.judge(fit(law, train, delta=math.inf), test, draws=60) for law in (CHINCHILLA, LINE)
    )
    assert right.aicc < wrong.aicc - 10
    assert right.held_out_rmse < wrong.held_out_rmse / 2
    assert right.held_out_rmse_interval[0] < right.held_out_rmse < right.held_out_rmse_interval[1]
    assert right.held_out_bias_interval[0] < 0 < right.held_out_bias_interval[1]
    assert wrong.held_out_bias_interval[1] < 0  # a line falls for ever
    lines = comparison.table([wrong, right]).splitlines()
    assert lines[2].startswith("| Chinchilla | 5 | 0.0 |") and "hypothesis" in lines[3]
    assert {line.count("|") for line in lines} == {7}


def test_line_wins_where_the_line_is_right():
    runs = runs_of(LINE, np.array([8.0, 0.15]), seed=3)
    assert comparison.aicc(fit(LINE, runs, delta=math.inf)) < comparison.aicc(
        fit(CHINCHILLA, runs, delta=math.inf)
    )


def test_nothing_held_out_is_one_line():
    with pytest.raises(UserError, match="held_out: no runs"):
        comparison.judge(fit(LINE, CURVED), CURVED.take(np.zeros(36, bool)))
