"""The grid of runs: sizes as asked, no run twice, the cheapest first, and larger with its budget."""

import pytest

from lwm.errors import UserError
from lwm.scaling import sweep
from lwm.scaling.flops import body_parameters

WORDS = {
    "text": {"bpe512": 512, "bytes": 259},
    "image": {"patch": 256},
    "audio": {"mulaw": 256, "block": 256},
}
GRID = sweep.grid(WORDS)


def test_models_are_as_large_as_asked():
    for size in sweep.ladder(5_000, 2e7, 2.0):
        cell = sweep.Cell(size, (sweep.Part("text", "bpe512", 2**16),))
        assert body_parameters(sweep.model_of(cell, WORDS)) == pytest.approx(size, rel=0.25)


def test_ladders_end_where_they_should():
    assert sweep.ladder(10_000, 1_000_000, 10**0.5) == [10_000, 32_000, 100_000, 320_000, 1_000_000]
    assert sweep.ladder(2**16, 2**21, 2.0) == [2**power for power in range(16, 22)]


def test_no_run_twice_and_the_cheapest_first():
    costs = [sweep.cost(cell, WORDS) for cell in GRID]
    assert costs == sorted(costs)
    assert len({cell.name for cell in GRID}) == len(set(GRID)) == len(GRID) >= 60


def test_every_modality_is_alone_on_all_sizes_and_lengths():
    for modality, own in WORDS.items():
        alone = {
            (cell.size, cell.tokens)
            for cell in GRID
            if [(part.modality, part.tokenizer) for part in cell.parts] == [(modality, next(iter(own)))]
        }
        assert len(alone) == 5 * 6 and max(alone) == (1_000_000, 2**21)


def test_tables_of_a_mixture_follow_each_other_and_cost():
    parts = [sweep.Part("text", "bpe512", 2**16), sweep.Part("audio", "mulaw", 2**16)]
    one, both = (sweep.Cell(100_000, tuple(parts[:count])) for count in (1, 2))
    assert sweep.model_of(both, WORDS).vocab_size == 768
    assert sweep.cost(both, WORDS) > 2 * sweep.cost(one, WORDS)
    assert both.name == "100000-text.bpe512.65536-audio.mulaw.65536-0"


def test_budget_scales_sizes_and_tokens():
    large = sweep.grid(WORDS, 100)
    assert max(cell.size for cell in large) == 10_000_000
    assert max(part.tokens for cell in large if len(cell.parts) == 1 for part in cell.parts) == 2**24


@pytest.mark.parametrize("budget, says", [(0.0, "give a number above 0"), (1e-3, "leaves 2 sizes")])
def test_bad_budgets_are_one_line(budget, says):
    with pytest.raises(UserError, match=says):
        sweep.grid(WORDS, budget)


def test_too_small_a_model_is_one_line():
    with pytest.raises(UserError, match="size: 100 parameters; give 2000"):
        sweep.shape(100)
