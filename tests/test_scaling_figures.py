"""Pictures of the grid: axes that can be read, what is drawn where; and the models that notebooks train."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import scaling_figures, scaling_laws, scaling_live
from experiments.scaling_questions import Collapse, Edge, Offset, Split
from lwm.scaling import laws
from lwm.scaling.runs_table import make_runs


def runs_of(offset=0.0):
    parameters, tokens = np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(6e4, 2e6, 5))
    law, runs = laws.chinchilla(), make_runs(parameters.ravel(), tokens.ravel())
    loss = law.predict(law.theta(E=1.2, A=40.0, B=900.0, alpha=0.4, beta=0.5), runs) + offset
    return runs._replace(loss=loss * np.exp(0.005 * np.random.default_rng(0).standard_normal(runs.size)))


@pytest.fixture(scope="module")
def one():
    chosen = [laws.chinchilla(), laws.kaplan(), *scaling_laws.hypotheses(["tokens"])]
    contenders = {law.name: [scaling_laws.ask(law, runs_of())] for law in chosen}
    return scaling_laws.answer("text", contenders, "Chinchilla", (0.01, 4), draws=4)


@pytest.fixture
def axes():
    return Figure().subplots()


def words(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_residuals_are_of_all_runs_and_three_laws(one, axes):
    scaling_figures.draw_residuals(axes, one)
    assert words(axes) == ["Chinchilla", "Kaplan", one.published]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 3 * 25
    assert "bits a raw byte" in axes.get_ylabel() and axes.get_xlabel() == "tokens N"


def test_errors_are_sorted_and_have_bars(one, axes):
    scaling_figures.draw_errors(axes, one.judgements, one.seeds[0], "text")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "Chinchilla" and len(names) == 6 and words(axes) == ["spread of seeds", "95 %"]


def test_best_sizes_lie_within_their_interval(one, axes):
    scaling_figures.draw_contours(axes, one, draws=8)
    assert {"runs", "best for a budget", "95 % of the best size"} < set(words(axes))
    found, _ = one.contenders["Chinchilla"][0]
    low, high = scaling_figures.best_sizes(found, np.array([1e11, 1e12]), draws=30)
    # (alpha A / beta B) ** (1 / 0.9) (C / 6) ** (0.5 / 0.9) of the law that the runs obey.
    truth = (0.4 * 40 / (0.5 * 900)) ** (1 / 0.9) * (np.array([1e11, 1e12]) / 6) ** (0.5 / 0.9)
    assert (low < truth * 1.3).all() and (truth < high * 1.3).all() and (low < high).all()


def test_tokenizers_and_their_offsets(axes):
    offset = Offset("patch", 3, 0.1, 0.05, 0.15)
    runs = runs_of().take(np.arange(0, 25, 5))
    found = Collapse("image", 1e5, [offset], 9.0, 0.01, {"first": runs, "patch": runs})
    scaling_figures.draw_tokenizers(axes, found)
    assert words(axes) == ["first", "patch"] and axes.get_xlabel() == "tokens T / C"
    below = Figure().subplots()
    scaling_figures.draw_offsets(below, found)
    assert [label.get_text() for label in below.get_yticklabels()] == ["patch"]


def test_names_and_mixtures(axes):
    split = [Split("text", -0.1 * names, -0.2 * names, -0.05, 0.1, 0.2, names) for names in (2, 4)]
    scaling_figures.draw_split(axes, split)
    assert words(axes) == ["measured: the same runs", "text, foretold"]
    edge = Edge(
        {("image", 1): (6, 0.1, 0.0, 0.2)}, {}, {1: (0.9, 0.8, 1.1), 4: (math.nan, math.nan, math.nan)}
    )
    left, right = Figure().subplots(1, 2)
    scaling_figures.draw_changes(left, edge)
    scaling_figures.draw_smaller(right, edge)
    assert [label.get_text() for label in left.get_yticklabels()] == ["image x 1"]
    assert "parameters for the same loss" in right.get_ylabel() and len(right.containers) == 1


@pytest.mark.slow
def test_two_names_may_share_a_table_of_ids():
    walk = scaling_live.walk(64)
    found = scaling_live.train({"one": (walk, 2**13, 64), "other": (walk, 2**13, 0)}, size=2000)
    # Chance among 64 numbers is six bits a byte.
    assert found["one"] == found["other"] < 5.5


def test_code_is_read_by_bytes():
    streams = scaling_live.code("bytes")
    assert len(streams.heldout) == streams.heldout_bytes <= scaling_live.HELD * 1.1
    assert len(streams.train) > 4 * scaling_live.TOKENS
