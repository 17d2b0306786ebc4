"""What is said of the grid's rows, when the rows obey laws that are known."""

import itertools

import numpy as np
import pytest

from experiments import scaling, scaling_data, scaling_laws, scaling_mixtures, scaling_questions, sweeps
from lwm.scaling import laws, sweep
from lwm.scaling.runs_table import TooFewRuns, make_runs
from lwm.scaling.verdicts import Verdict

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
    """`written(bits)`: a CSV of the grid, with `bits(cell, part)` a byte beside chance of half a percent.

    `written(bits, rows)` has its first rows only, as a grid that goes on.
    """

    def write(bits, rows=None):
        path, rng = tmp_path / f"{bits.__name__}{rows}.csv", np.random.default_rng(0)
        table = sweeps.Table(path, scaling.COLUMNS, scaling.KEY)
        for cell in GRID[:rows]:
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
        one = scaling_laws.of_modality(written(bits), "audio", draws=30)
        assert one.counts == (24, 12) and one.published.startswith("hypothesis, one slope")
        # Nine runs in threes that differ in their seed alone.
        assert one.seeds[1] == 6 and one.seeds[0] == pytest.approx(0.005 * 3, rel=1)
        said[bits] = one.verdicts[one.published]
        assert any(said[bits].sentence in line for line in scaling_laws.told(one))
    assert said[level].word == "REFUTED" and said[straight].word == "CONFIRMED"
    assert said[straight].low <= said[straight].ratio <= said[straight].high


def test_one_law_for_all_is_asked_about_the_runs_that_laws_for_each_are(written):
    path = written(straight)
    parts = [scaling_laws.of_modality(path, name, draws=2) for name in ("text", "image")]
    one = scaling_laws.together(path, parts, draws=20)
    assert one.counts == (48, 24)
    asked = [np.concatenate([unseen.loss for _, unseen in each]) for each in one.contenders.values()]
    assert all((each == asked[0]).all() for each in asked)
    # The same line for both: a single law, with a constant for each or not, is what the runs obey.
    assert one.verdicts[one.published].word == "CONFIRMED"
    with pytest.raises(TooFewRuns, match="1 of 3 modalities"):
        scaling_laws.together(path, parts[:1])


def test_a_conclusion_says_where():
    def at(word):
        one = Verdict(word, word, 1.0, 1.0, 1.0)
        return scaling_laws.Answer("", {}, [], {"hypothesis, one slope, loss": one}, (0.0, 0))

    said = scaling_laws.conclusion({"text": at("CONFIRMED"), "image": at("REFUTED")}, ["audio"])
    assert said.endswith("BOUNDED: it holds for text; it fails for image. Too few rows yet: audio.")


def test_a_pair_that_competes_is_told_from_one_that_does_not(written):
    def competing(cell, part):
        return level(cell, part) + 0.08 * (len(cell.parts) > 1 and cell.parts[1].modality == "image")

    path = written(competing)
    own = scaling_mixtures.mixture(path, "image", draws=10)
    assert own.said.startswith("text + image: competition, the mean loss changes by +0.0") and own.cells == 12
    assert own.low < 0.08 < own.high and (own.fitted, own.held_out) == (8, 4)
    errors = {row.law: row for row in own.judgements}
    assert len(errors) == 7
    alone = errors["Chinchilla of each alone, no interaction"]
    # What it leaves out is what it foretells too little.
    assert alone.held_out_bias == pytest.approx(-0.08, abs=0.02)
    assert errors["mixed-modal"].held_out_rmse < alone.held_out_rmse
    assert "| mixed-modal | 5 |" in "\n".join(scaling_mixtures.told(own))
    without = scaling_mixtures.interaction(path, scaling_mixtures.pair(path, "audio"))
    assert len(without) == 12 and abs(np.mean(without)) < 0.01


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
        return level(cell, part) + 0.1 * (part.modality == "text" and len(cell.parts) > 1)

    found = scaling_questions.changes(written(harmed))
    assert len(found) == 6 and all(count == 6 for count, *_ in found.values())
    assert all(low < mean < high and low > 0 for _, mean, low, high in found.values())
    edge = scaling_questions.Edge(found, {}, {})
    assert edge.verdict.startswith("REFUTED") and "better beside none" in edge.verdict
    assert "nowhere better by more than 0.000" in edge.verdict
    helped = {key: (count, -mean, -high, -low) for key, (count, mean, low, high) in found.items()}
    assert edge._replace(changes=helped).verdict.startswith("CONFIRMED")
    unsure = edge._replace(changes={("image", 1): (6, -0.01, -0.03, 0.01)})
    assert unsure.verdict.startswith("BOUNDED") and unsure.verdict.endswith("by more than 0.030 bits a byte")


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
    with pytest.raises(TooFewRuns, match="no rows with .*text_tokenizer = bpe4096"):
        scaling_questions.collapse(few, "text")


@pytest.mark.parametrize("rows", [1, 45])
def test_a_grid_that_has_only_begun_says_what_it_waits_for(rows, written):
    path = written(level, rows)
    found, why = scaling_laws.answers(path, draws=2)
    assert not set(found) & set(why) and set(found) | set(why) == {
        *scaling_laws.MODALITIES,
        scaling_laws.TOGETHER,
        scaling_laws.BESIDE,
    }
    assert why[scaling_laws.BESIDE] and "Too few rows yet: " in scaling_laws.conclusion(found, why)
    assert set(scaling_mixtures.mixtures(path, draws=2)[1]) == {"image", "audio"}
    lines = scaling_questions.told(path)
    assert "too few rows yet" in lines[-1] and sum("too few rows yet" in line for line in lines) >= 3


BROKEN = {
    "no column": (
        lambda lines: [line.replace("text_tokens", "words") for line in lines],
        "no column 'text_tok",
    ),
    "nan": (lambda lines: [lines[0], *(line.replace("0,32000,", "0,nan,") for line in lines[1:])], "is nan"),
    "negative": (lambda lines: [lines[0], *(line.replace(",32000,", ",-5,") for line in lines[1:])], "is -5"),
}


@pytest.mark.parametrize("script", [scaling_laws, scaling_questions, scaling_mixtures])
@pytest.mark.parametrize("name", BROKEN)
def test_a_table_that_is_wrong_is_one_line(name, script, written, monkeypatch, capsys):
    spoil, says = BROKEN[name]
    path = written(level)
    path.write_text("\n".join(spoil(path.read_text().splitlines())))
    monkeypatch.setattr("sys.argv", ["script", f"--csv={path}"])
    with pytest.raises(SystemExit) as ended:
        script.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and says in said and said.count("\n") == 1
