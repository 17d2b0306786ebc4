"""Laws: values by hand, slopes against finite differences, and what each does at its edges."""

import math

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.scaling import laws
from lwm.scaling.runs_table import make_runs

RNG = np.random.default_rng(0)
RUNS = make_runs(RNG.uniform(1e4, 1e7, 20), RNG.uniform(1e5, 1e8, (20, 2)), RNG.uniform(1, 4, 20), target=1)
ALONE = laws.chinchilla()
FIRST = ALONE.theta(E=1.5, A=60, B=90, alpha=0.4, beta=0.35)
SECOND = ALONE.theta(E=0.8, A=30, B=70, alpha=0.3, beta=0.3)

CASES = {
    "chinchilla": (laws.chinchilla(), FIRST),
    "chinchilla, all": (laws.chinchilla(laws.all_tokens), FIRST),
    "kaplan": (laws.kaplan(), np.log([1e9, 1e10, 0.1, 0.14])),
    "one slope": (laws.hypothesis(("text", "image")), np.array([9.0, 0.1])),
    "free slopes": (laws.hypothesis(("text", "image"), slopes="free"), np.array([9.0, 0.2, 0.1, 0.05])),
    "one slope, log": (laws.hypothesis(("text", "image"), performance="log loss"), np.array([3.0, 0.05])),
    "mixed": (laws.mixed_modal(FIRST, SECOND), np.array([0.2, 2.0, 3.0, *np.log([0.3, 0.25])])),
    "effective": (laws.effective_data(("text", "image"), target=1), np.array([0.4, 4, 5, 0.4, 0.3, 0.6])),
    "competing": (laws.effective_data(("text", "image"), target=1), np.array([0.4, 4, 5, 0.4, 0.3, -0.01])),
}


@pytest.mark.parametrize("name", CASES)
def test_slopes_are_those_of_finite_differences(name):
    law, theta = CASES[name]
    slopes = law.log_loss(theta, RUNS)[1]
    for index, value in enumerate(theta):
        step = np.zeros_like(theta)
        step[index] = 1e-5 * max(1, abs(value))
        up, down = law.log_loss(theta + step, RUNS)[0], law.log_loss(theta - step, RUNS)[0]
        np.testing.assert_allclose(slopes[:, index], (up - down) / (2 * step[index]), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_prediction_is_the_exponential_of_the_log_loss_and_names_fit(name):
    law, theta = CASES[name]
    np.testing.assert_allclose(law.predict(theta, RUNS), np.exp(law.log_loss(theta, RUNS)[0]), rtol=1e-12)
    np.testing.assert_allclose(law.theta(**law.values(theta)), theta, rtol=1e-12)


def test_published_constants_give_the_loss_of_the_formula():
    run = make_runs([70e9], [1.4e12])
    theta = ALONE.theta(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    expected = 1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28
    assert ALONE.predict(theta, run)[0] == pytest.approx(expected, rel=1e-12)


def test_kaplan_is_the_power_of_the_sum():
    run = make_runs([1e8], [3e9])
    theta = laws.kaplan().theta(Nc=8.8e13, Dc=5.4e13, alpha_N=0.076, alpha_D=0.095)
    expected = ((8.8e13 / 1e8) ** (0.076 / 0.095) + 5.4e13 / 3e9) ** 0.095
    assert laws.kaplan().predict(theta, run)[0] == pytest.approx(expected, rel=1e-12)


def test_hypothesis_adds_logarithms_and_leaves_out_a_modality_of_which_there_is_nothing():
    law = laws.hypothesis(("text", "image"))
    both, alone = make_runs([1e6], [[1e5, 1e4]]), make_runs([1e6], [[1e5, 0]])
    assert law.predict([30, 1], both)[0] == pytest.approx(30 - math.log(1e15))
    assert law.predict([30, 1], alone)[0] == pytest.approx(30 - math.log(1e11))


def test_hypothesis_may_have_a_constant_for_each_modality_of_a_run():
    law = laws.hypothesis(("a", "b"), constants="each")
    assert law.names == ("constant of a", "constant of b", "slope") and law.name.endswith("a constant each")
    runs = make_runs([10, 10, 10], [[5, 0], [0, 5], [5, 5]])
    loss = law.predict(np.array([7.0, 3.0, 0.5]), runs)
    assert loss[0] - loss[1] == pytest.approx(4.0)
    assert loss[2] == pytest.approx(10 - 0.5 * np.log(10 * 5 * 5))


def test_hypothesis_changes_its_mind_when_one_corpus_is_called_two_modalities():
    """The split paradox: N tokens become N/2 and N/2 of the same text."""
    whole = laws.hypothesis(("text",)).predict([30, 1], make_runs([1e6], [1e6]))
    halves = laws.hypothesis(("a", "b")).predict([30, 1], make_runs([1e6], [[5e5, 5e5]]))
    assert whole[0] - halves[0] == pytest.approx(math.log(5e5**2 / 1e6))
    total = laws.chinchilla(laws.all_tokens)
    theta = FIRST
    same = [total.predict(theta, make_runs([1e6], split))[0] for split in ([1e6], [[5e5, 5e5]])]
    assert same[0] == same[1]


def test_interaction_is_what_mixed_loss_has_beyond_the_mean():
    law, theta = CASES["mixed"]
    mean = sum(ALONE.predict(t, RUNS._replace(target=i)) for i, t in enumerate((FIRST, SECOND))) / 2
    rest = -0.2 + math.e**2 / RUNS.parameters**0.3 + math.e**3 / RUNS.tokens.sum(1) ** 0.25
    np.testing.assert_allclose(law.predict(theta, RUNS), mean + rest, rtol=1e-12)


def test_tokens_worth_one_count_as_own_tokens():
    effective = laws.effective_data(("text", "image"), target=1)
    np.testing.assert_allclose(
        effective.predict([*FIRST, 1.0], RUNS), laws.chinchilla(laws.all_tokens).predict(FIRST, RUNS)
    )
    np.testing.assert_allclose(effective.predict([*FIRST, 0.0], RUNS), ALONE.predict(FIRST, RUNS))


def test_impossible_sums_have_finite_logarithms():
    """A search may pass where a law gives a loss below zero, or tokens that destroy more than there are."""
    for law, theta in (
        (CASES["one slope"][0], np.array([1.0, 5.0])),
        (CASES["mixed"][0], np.array([50.0, 0, 0, 0.3, 0.3])),
        (CASES["effective"][0], np.array([0.4, 4, 5, 0.4, 0.3, -50.0])),
    ):
        value, slopes = law.log_loss(theta, RUNS)
        assert np.isfinite(value).all() and np.isfinite(slopes).all()


def test_laws_refuse_runs_that_they_say_nothing_of():
    without = make_runs([1e5], [[0, 1e5]])
    with pytest.raises(UserError, match="tokens: 0 of the law's modality in run 1; drop it"):
        ALONE.predict(FIRST, without)
    with pytest.raises(UserError, match="hypothesis: 2 columns of tokens"):
        laws.hypothesis().predict([1, 1], without)
    with pytest.raises(UserError, match="mixed_modal: 1 columns"):
        laws.mixed_modal(FIRST, SECOND).predict(np.zeros(5), make_runs([1e5], [1e5]))
    with pytest.raises(UserError, match="effective_data: runs of target 0"):
        CASES["effective"][0].predict(CASES["effective"][1], without)
    with pytest.raises(UserError, match="slopes 'two'"):
        laws.hypothesis(slopes="two")
