"""Fits: known laws come back, closed forms agree with searches, and Huber's function does what it is for."""

import math

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.scaling import laws
from lwm.scaling.fitting import errors, fit, huber, refit, whiten
from lwm.scaling.runs_table import make_runs

SIZES, LENGTHS = np.geomspace(1e4, 1e6, 6), np.geomspace(6e4, 2e6, 6)
CHINCHILLA = laws.chinchilla()
TEXT = CHINCHILLA.theta(E=1.2, A=40, B=300, alpha=0.35, beta=0.4)
IMAGE = CHINCHILLA.theta(E=2.0, A=20, B=500, alpha=0.25, beta=0.45)


def alone():
    parameters, tokens = np.meshgrid(SIZES, LENGTHS)
    return make_runs(parameters.ravel(), tokens.ravel())


def mixed(target=0):
    parameters, text, image = np.meshgrid(SIZES[::2], LENGTHS, LENGTHS)
    return make_runs(parameters.ravel(), np.stack([text.ravel(), image.ravel()], 1), target=target)


MIXED_MODAL = laws.mixed_modal(TEXT, IMAGE)
EFFECTIVE = laws.effective_data(("text", "image"))
KNOWN = {
    "chinchilla": (CHINCHILLA, TEXT, alone()),
    "kaplan": (laws.kaplan(), laws.kaplan().theta(Nc=3e8, Dc=2e9, alpha_N=0.1, alpha_D=0.15), alone()),
    "one slope": (laws.hypothesis(), np.array([9.0, 0.2]), alone()),
    "free slopes": (
        laws.hypothesis(("text", "image"), slopes="free", performance="log loss"),
        np.array([3.0, 0.06, 0.04, 0.01]),
        mixed(),
    ),
    "mixed-modal": (MIXED_MODAL, np.array([0.3, *np.log([15, 200, 0.3, 0.5])]), mixed()),
    "helped": (EFFECTIVE, np.array([*TEXT, 0.3]), mixed()),
    "harmed": (EFFECTIVE, np.array([*TEXT, -0.02]), mixed()),
}


@pytest.mark.parametrize("delta", [1e-3, math.inf])
@pytest.mark.parametrize("name", KNOWN)
def test_parameters_of_a_known_law_come_back(name, delta):
    law, theta, runs = KNOWN[name]
    runs = runs._replace(loss=law.predict(theta, runs))
    found = fit(law, runs, delta=delta)
    np.testing.assert_allclose(law.natural(found.theta), law.natural(theta), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(found.predict(runs), runs.loss, rtol=1e-6)


@pytest.mark.parametrize("space", ["loss", "log loss"])
@pytest.mark.parametrize("performance", ["loss", "log loss"])
def test_closed_form_of_a_linear_law_is_where_the_search_ends(performance, space):
    law = laws.hypothesis(slopes="free", performance=performance)
    runs = noisy(alone(), 0.05)
    closed = fit(law, runs, delta=math.inf, space=space)
    searched = fit(law, runs, delta=1e3, space=space)  # no error is as large: squares, but by L-BFGS
    np.testing.assert_allclose(closed.theta, searched.theta, rtol=1e-5)
    design = np.column_stack([np.ones(runs.size), -np.log(runs.parameters), -np.log(runs.tokens)])
    if performance == space:
        wanted = runs.loss if space == "loss" else np.log(runs.loss)
        np.testing.assert_allclose(closed.theta, np.linalg.lstsq(design, wanted, rcond=None)[0], rtol=1e-9)


def test_no_place_around_the_fit_is_better():
    runs = noisy(alone(), 0.02)
    found = fit(CHINCHILLA, runs)
    rng = np.random.default_rng(1)
    white = whiten(errors(CHINCHILLA, found.theta, runs, "log loss")[1])
    for size in (1e-4, 1e-3, 1e-2, 0.1):
        for _ in range(20):
            moved = found.theta + size * white @ rng.standard_normal(5)
            error, _ = errors(CHINCHILLA, moved, runs, "log loss")
            assert huber(error, found.delta).sum() >= found.objective


def test_a_few_wild_runs_move_hubers_fit_less_than_least_squares():
    runs = noisy(alone(), 0.002)
    loss = runs.loss.copy()
    loss[[3, 20]] *= 1.5
    wild = runs._replace(loss=loss)
    robust, squares = fit(CHINCHILLA, wild), fit(CHINCHILLA, wild, delta=math.inf)
    truth = CHINCHILLA.predict(TEXT, runs)
    assert np.abs(robust.predict(runs) / truth - 1).max() < 0.01
    assert np.abs(squares.predict(runs) / truth - 1).max() > 0.02


def test_huber_is_a_square_then_a_line():
    assert huber(np.array([0.5, -1.0, 3.0]), 1.0).tolist() == [0.125, 0.5, 2.5]
    assert huber(np.array([3.0]), math.inf).tolist() == [4.5]


def test_refit_of_similar_runs_ends_where_a_whole_fit_does():
    runs = noisy(alone(), 0.01)
    found, again = fit(CHINCHILLA, runs), noisy(alone(), 0.01, seed=5)
    warm, cold = refit(found, again), fit(CHINCHILLA, again)
    assert warm.objective == pytest.approx(cold.objective, rel=1e-6)
    np.testing.assert_allclose(warm.theta, cold.theta, rtol=1e-3)


def test_fit_refuses_fewer_runs_than_it_needs():
    few = noisy(alone(), 0.01).take(np.arange(5))
    with pytest.raises(UserError, match="runs: 5 for the 5 parameters of Chinchilla; give 6"):
        fit(CHINCHILLA, few)
    with pytest.raises(UserError, match="space 'bits'"):
        fit(CHINCHILLA, noisy(alone(), 0.01), space="bits")
    with pytest.raises(UserError, match="delta 0"):
        fit(CHINCHILLA, noisy(alone(), 0.01), delta=0)


def noisy(runs, size, seed=0):
    noise = np.exp(size * np.random.default_rng(seed).standard_normal(runs.size))
    return runs._replace(loss=CHINCHILLA.predict(TEXT, runs) * noise)
