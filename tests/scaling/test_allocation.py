"""Allocation: closed forms against grids, contours against the law, minima of budgets against known ones."""

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.scaling import laws
from lwm.scaling.allocation import (
    chinchilla_optimum,
    exponents,
    isoflop_minima,
    optimum,
    parameters_for,
    tokens_for,
)
from lwm.scaling.runs_table import make_runs

LAW = laws.chinchilla()
VALUES = {"E": 1.8172, "A": 477.8, "B": 2143.0, "alpha": 0.3473, "beta": 0.3672}
THETA = LAW.theta(**VALUES)


@pytest.mark.parametrize("flops", [1e18, 5.76e23])
@pytest.mark.parametrize("cost", [6.0, 8.0])
def test_closed_form_is_the_best_of_a_grid(flops, cost):
    found = chinchilla_optimum(VALUES, flops, cost=cost)
    assert cost * found.parameters * found.tokens == pytest.approx(flops)
    sizes = np.geomspace(1e6, 1e13, 200_001)
    losses = LAW.predict(THETA, make_runs(sizes, flops / cost / sizes))
    assert found.parameters == pytest.approx(sizes[losses.argmin()], rel=1e-3)
    assert found.loss == pytest.approx(losses.min(), rel=1e-9)


def test_numerical_optimum_is_the_closed_form():
    closed, found = chinchilla_optimum(VALUES, 1e21), optimum(LAW, THETA, 1e21)
    np.testing.assert_allclose(found[:3], closed[:3], rtol=1e-4)
    assert found.interior


def test_optimum_of_other_laws_is_the_best_of_a_grid():
    kaplan = laws.kaplan()
    effective = laws.effective_data(("text", "image"), target=1)
    for law, theta, mixture, target in (
        (kaplan, kaplan.theta(Nc=8.8e13, Dc=5.4e13, alpha_N=0.076, alpha_D=0.095), (1.0,), 0),
        (effective, np.array([*THETA, 0.3]), (3.0, 1.0), 1),
    ):
        found = optimum(law, theta, 1e20, mixture=mixture, target=target)
        sizes = np.geomspace(1e3, 1e15, 100_001)
        tokens = (1e20 / 6 / sizes)[:, None] * np.array(mixture) / sum(mixture)
        losses = law.predict(theta, make_runs(sizes, tokens, target=target))
        assert found.interior and found.parameters == pytest.approx(sizes[losses.argmin()], rel=2e-3)


def test_hypothesis_of_one_slope_has_no_best_size():
    """Its loss depends on the product of parameters and tokens alone."""
    assert not optimum(laws.hypothesis(), np.array([9.0, 0.14]), 1e20).interior
    assert not optimum(laws.hypothesis(slopes="free"), np.array([9.0, 0.14, 0.1]), 1e20).interior


def test_contours_lie_on_the_loss_and_end_where_it_cannot_be_reached():
    sizes = np.array([1e7, 1e9, 1e11])
    tokens = tokens_for(LAW, THETA, 2.2, sizes)
    least = 2.2 - VALUES["E"] - VALUES["A"] / sizes ** VALUES["alpha"]
    assert np.isnan(tokens[0]) and least[0] < 0
    np.testing.assert_allclose(tokens[1:], (VALUES["B"] / least[1:]) ** (1 / VALUES["beta"]), rtol=1e-6)
    np.testing.assert_allclose(LAW.predict(THETA, make_runs(sizes[1:], tokens[1:])), 2.2, rtol=1e-9)
    np.testing.assert_allclose(parameters_for(LAW, THETA, 2.2, tokens[1:]), sizes[1:], rtol=1e-6)


@pytest.mark.parametrize("worth", [0.5, 0.0, -0.02])
def test_tokens_of_another_modality_spare_parameters_only_if_they_are_worth_something(worth):
    law = laws.effective_data(("text", "image"))
    needed = parameters_for(law, np.array([*THETA, worth]), 2.5, [[1e10, 0], [1e10, 1e10], [1e10, 4e10]])
    assert np.isfinite(needed).all()
    assert (np.sign(np.diff(needed)) == -np.sign(worth)).all() or (worth == 0 and np.ptp(needed) < 1)


def test_contour_of_a_mixture_counts_all_its_tokens():
    law = laws.effective_data(("text", "image"))
    worthless = np.array([*THETA, 0.0])
    half = tokens_for(law, worthless, 2.2, [1e10], mixture=(1, 1))
    np.testing.assert_allclose(half, 2 * tokens_for(LAW, THETA, 2.2, [1e10]), rtol=1e-6)


def test_minima_of_budgets_give_the_exponents_of_the_law():
    budgets = np.repeat(np.geomspace(1e19, 1e22, 5), 9)
    best = np.array([chinchilla_optimum(VALUES, flops).parameters for flops in budgets])
    sizes = best * np.tile(np.geomspace(0.5, 2, 9), 5)
    runs = make_runs(sizes, budgets / 6 / sizes)
    runs = runs._replace(loss=LAW.predict(THETA, runs))
    minima = isoflop_minima(runs)
    assert [round(np.log10(minimum.flops), 2) for minimum in minima] == [19, 19.75, 20.5, 21.25, 22]
    for minimum in minima:
        assert minimum.interior
        assert minimum.parameters == pytest.approx(chinchilla_optimum(VALUES, minimum.flops)[0], rel=0.05)
    a, b = exponents(minima)
    share = VALUES["beta"] / (VALUES["alpha"] + VALUES["beta"])
    assert (a, b) == pytest.approx((share, 1 - share), abs=5e-3)


def test_budget_with_two_sizes_or_a_hill_has_no_minimum():
    sizes = np.array([1e6, 1e7, 1e6, 1e7, 1e8])
    flops = np.array([1e15, 1e15, 1e17, 1e17, 1e17])
    runs = make_runs(sizes, flops / 6 / sizes, [3, 2, 2, 3, 2])
    assert isoflop_minima(runs) == []
    with pytest.raises(UserError, match="minima: 0; a line needs two budgets"):
        exponents([])


def test_minimum_beyond_the_sizes_is_said_to_be_one():
    sizes = np.geomspace(1e6, 1e8, 5)
    x = np.log(sizes)
    runs = make_runs(sizes, 1e17 / 6 / sizes, 2 + 0.01 * (x - x[-1] - 1) ** 2)
    (minimum,) = isoflop_minima(runs)
    assert not minimum.interior and minimum.parameters == pytest.approx(1e8 * np.e, rel=1e-6)
    assert minimum.loss == pytest.approx(2)


def test_budget_that_pays_nothing_is_one_line():
    with pytest.raises(UserError, match=r"flops: 5; must be above 6\.0"):
        optimum(LAW, THETA, 5)
