"""What is said of the grid's rows, when the rows obey laws that are known."""

import itertools

import numpy as np
import pytest

from experiments import scaling, scaling_data, scaling_laws, scaling_questions, sweeps
from lwm.errors import UserError
from lwm.scaling import laws, sweep
from lwm.scaling.runs_table import make_runs

GRID = sweep.grid(scaling_data.VOCABULARIES)
TRUE, LINE = laws.chinchilla(), laws.hypothesis()
THETA = TRUE.theta(E=1.2, A=40.0, B=900.0, alpha=0.4, beta=0.5)


def level(cell, part):
    """Bits a byte that Chinchilla's law gives for the tokens of a modality, whatever stands beside them."""
    return TRUE.predict(THETA, make_runs([cell.size], [part.tokens]))[0]


def straight(cell, part):
    return LINE.predict(np.array([9.0, 0.25]), make_runs([cell.size], [part.tokens]))[0]


@pytest.fixture
def written(tmp_path):
    """`written(bits)`: a CSV of the grid, with `bits(cell, part)` a byte beside chance of half a percent."""

    def write(bits):
        path, rng = tmp_path / f"{bits.__name__}.csv", np.random.default_rng(0)
        table = sweeps.Table(path, scaling.COLUMNS, scaling.KEY)
        for cell in GRID:
            row = scaling.key_of(cell) | {"parameters": cell.size}
            for part in cell.parts:
                row[f"{part.modality}_bits_per_byte"] = bits(cell, part) * np.exp(0.005 * rng.normal())
            table.rows.append({name: row.get(name, "") for name in scaling.COLUMNS})
        table.write()
        return path

    return write


def test_verdicts_are_those_of_the_law_that_the_runs_obey(written):
    said = {}
    for bits in (level, straight):
        runs = scaling_laws.alone(written(bits), "audio")
        assert runs.size == 36
        asked = [scaling_laws.ask(law, runs) for law in (LINE, TRUE)]
        said[bits] = scaling_laws.verdict(asked[:1], asked[1:], draws=40)
    assert said[level].startswith("REFUTED")
    assert not said[straight].startswith("REFUTED")


def test_runs_of_a_mixture_are_told_from_those_alone(written):
    path = written(level)
    alone, beside = scaling_laws.alone(path, "text"), scaling_laws.beside(path)
    assert alone.size == 36 and beside.size == 36 + 36 and (beside.tokens[:, 1:].sum(1) > 0).sum() == 36
    pooled = scaling_laws.pooled(path)
    assert pooled.size == 3 * 36 and ((pooled.tokens > 0).sum(1) == 1).all()
    assert all(a != b for a, b in itertools.pairwise(pooled.tokens.argmax(1)[35::36]))


def test_tokenizers_collapse_only_if_their_number_is_all_that_counts(written):
    def apart(cell, part):
        return level(cell, part) + 0.1 * (part.tokenizer == "bpe4096")

    assert scaling_questions.collapse(written(level), "text").verdict.startswith("text: NOT REFUTED")
    found = scaling_questions.collapse(written(apart), "text")
    of = {one.tokenizer: one for one in found.offsets}
    assert of["bpe4096"].low < 0.1 < of["bpe4096"].high and of["bytes"].low < 0 < of["bytes"].high
    assert found.verdict.startswith("text: REFUTED, at equal T / C bpe4096 is +0.")


def test_a_corpus_under_two_names_is_foretold_another_loss(written):
    """By slope x log(N / 4), as log(N / 2) twice stands for log N."""
    path = written(straight)
    found = scaling_questions.split(path, "image", draws=40)
    tokens = scaling_laws.alone(path, "image").tokens[:, 0]
    assert found.foretold == pytest.approx(-0.25 * np.log(tokens / 4).mean(), rel=0.02)
    assert found.low < found.foretold < found.high < 0 and "REFUTED" in found.verdict
    assert found.rmse_as_two > found.rmse_as_one


def test_what_other_modalities_do_for_text_is_told_with_its_sign(written):
    def harmed(cell, part):
        return level(cell, part) + 0.05 * (part.modality == "text" and len(cell.parts) > 1)

    found = scaling_questions.changes(written(harmed))
    assert len(found) == 6 and all(count == 6 for count, *_ in found.values())
    assert all(low < mean < high and low > 0 for _, mean, low, high in found.values())
    edge = scaling_questions.Edge(found, {}, {})
    assert edge.verdict.startswith("REFUTED") and "better beside none" in edge.verdict
    helped = {key: (count, -mean, -high, -low) for key, (count, mean, low, high) in found.items()}
    assert edge._replace(changes=helped).verdict.startswith("CONFIRMED")


def test_parameters_for_the_same_loss_follow_the_worth_of_a_token():
    law = laws.effective_data(("text", "image"))
    theta = np.array([*THETA, 0.5])
    value, *_ = scaling_questions.smaller(law, theta, theta[None], 1e5, 1e6, times=1)
    # A / P^alpha makes room for what B / N^beta loses as N grows by half.
    size = 40 * 1e5**-0.4 + 900 * (1e6**-0.5 - 1.5e6**-0.5)
    assert value == pytest.approx((size / 40) ** (-1 / 0.4) / 1e5, rel=1e-3) and value < 1


def test_a_grid_without_rows_to_compare_is_one_line(written, tmp_path):
    path = written(level)
    lines = path.read_text().splitlines()
    few = tmp_path / "few.csv"
    few.write_text("\n".join([lines[0], *(line for line in lines if "bpe4096" not in line)]))
    with pytest.raises(UserError, match="no rows with .*text_tokenizer = bpe4096"):
        scaling_questions.collapse(few, "text")
