"""Verdicts: the rule, and what it says of runs that obey known laws."""

import math

import numpy as np
import pytest

from lwm.scaling import laws
from lwm.scaling.comparison import chance, largest
from lwm.scaling.fitting import fit
from lwm.scaling.runs_table import make_runs
from lwm.scaling.verdicts import Verdict, compare, overall, word_of

CURVED, LINE = laws.chinchilla(), laws.hypothesis()
BENT = CURVED.theta(E=1.2, A=40.0, B=900.0, alpha=0.4, beta=0.5)
STRAIGHT = np.array([9.0, 0.25])


def asked(law, truth, theta, noise, seed=0):
    """A law fitted to the smaller of 36 runs that obey `truth`, and the largest."""
    parameters, tokens = np.meshgrid(np.geomspace(1e4, 1e6, 6), np.geomspace(6e4, 2e6, 6))
    runs = make_runs(parameters.ravel(), tokens.ravel())
    change = np.exp(noise * np.random.default_rng(seed).standard_normal(runs.size))
    runs = runs._replace(loss=truth.predict(theta, runs) * change)
    mask = largest(runs)
    return [(fit(law, runs.take(~mask), delta=math.inf), runs.take(mask))]


@pytest.mark.parametrize(
    "truth, theta, noise, word, says",
    [
        (LINE, STRAIGHT, 0.005, "CONFIRMED", "CONFIRMED: its held-out error is "),
        (CURVED, BENT, 0.005, "REFUTED", "times that of Chinchilla"),
        (CURVED, BENT, 0.3, "BOUNDED", "; these runs tell no more than that interval"),
    ],
)
def test_word_is_that_of_the_law_that_the_runs_obey(truth, theta, noise, word, says):
    claim, rival = (asked(law, truth, theta, noise) for law in (LINE, CURVED))
    found = compare(claim, rival, draws=40)
    assert found.word == word and says in found.sentence and found.low <= found.ratio <= found.high


def test_errors_that_lean_are_told_with_their_side():
    """Held-out losses that no law could know of, a tenth above all that was fitted."""
    claim, rival = (
        [(found, unseen._replace(loss=1.1 * unseen.loss))]
        for law in (LINE, laws.hypothesis(slopes="free"))
        for found, unseen in asked(law, LINE, STRAIGHT, 0.002)
    )
    said = compare(claim, rival, draws=40).sentence
    assert "and it foretells too little loss, by 0." in said and said.startswith("BOUNDED")
    assert said.endswith("as good as the other, but its errors lean")


@pytest.mark.parametrize(
    "low, high, leans, word",
    [
        (0.5, 1.2, False, "CONFIRMED"),
        (0.5, 1.2, True, "BOUNDED"),
        (0.5, 1.3, False, "BOUNDED"),
        (1.05, 1.2, False, "BOUNDED"),
        (1.05, 1.3, False, "REFUTED"),
        (2.0, 3.0, True, "REFUTED"),
    ],
)
def test_rule(low, high, leans, word):
    assert word_of(low, high, leans) == word


def test_places_have_to_agree():
    of = {word: Verdict(word, word, 1.0, 1.0, 1.0) for word in ("CONFIRMED", "BOUNDED", "REFUTED")}
    assert overall({"a": of["REFUTED"], "b": of["REFUTED"]}) == "REFUTED in all places: a, b"
    assert overall({"a": of["CONFIRMED"]}, ["b"]) == "CONFIRMED in all places: a. Too few rows yet: b"
    assert overall({"a": of["CONFIRMED"], "b": of["REFUTED"], "c": of["REFUTED"]}) == (
        "BOUNDED: it holds for a; it fails for b, c"
    )
    assert overall({"a": of["BOUNDED"]}).startswith("BOUNDED: it holds in part, or is open for a")
    assert overall({}, ["a"]) == "NOT ASKED. Too few rows yet: a"


def test_chance_is_the_spread_of_runs_that_are_alike():
    runs = make_runs([10, 10, 10, 20, 20, 30], [5, 5, 5, 5, 5, 5], [1, 2, 3, 4, 6, 9])
    # Squares of 1, 0, 1 and of 1, 1, over 2 + 1 degrees of freedom.
    assert chance(runs) == (pytest.approx(math.sqrt(4 / 3)), 3)
    spread, free = chance(runs.take(np.array([0, 3])))
    assert math.isnan(spread) and free == 0
