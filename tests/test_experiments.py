"""What the sweeps of experiments/ rest on: rows made once, documents that fit, arms as they are called."""

import argparse
import json
import random
import sys

import numpy as np
import pytest

from experiments import (
    clip_questions,
    context_extension,
    digits_corpus,
    dreamllm,
    dreamllm_arms,
    multimodel,
    multimodel_arms,
    multimodel_tables,
    multimodel_verdict,
    needle_corpus,
    needle_miniature,
    packing_ablation,
    sweeps,
    text_to_image,
)
from lwm.data.fields import parse_fields
from lwm.data.packing import Example, pack_row
from lwm.data.tokenizers import ByteTokenizer


def test_row_is_there_when_the_sweep_starts_again(tmp_path):
    path = tmp_path / "deep" / "rows.csv"
    table = sweeps.Table(path, ["arm", "seed", "share"], ["arm", "seed"])
    assert not table.has(arm="a", seed=0)
    table.add({"arm": "a", "seed": 0, "share": 1 / 3})
    again = sweeps.Table(path, ["arm", "seed", "share", "later"], ["arm", "seed"])
    assert again.has(arm="a", seed=0) and not again.has(arm="a", seed=1)
    again.add({"arm": "b", "seed": 0})
    assert path.read_text().splitlines() == ["arm,seed,share,later", "a,0,0.333333,", "b,0,,"]
    with pytest.raises(ValueError, match="no column for \\['arms'\\]"):
        again.add({"arms": "c"})


def test_rows_of_a_run_are_written_together_and_each_once(tmp_path):
    table = sweeps.Table(tmp_path / "rows.csv", ["arm", "seed", "share"], ["arm", "seed"])
    table.add({"arm": "a", "seed": 0, "share": 1})
    found = [{"arm": arm, "seed": 0, "share": share, "more": 9} for share, arm in enumerate("abbc", 2)]
    sweeps.gather(table, found)
    lines = ["arm,seed,share", "a,0,1", "b,0,3", "c,0,5"]
    assert table.path.read_text().splitlines() == lines
    with pytest.raises(ValueError, match="no column for \\['arms'\\]"):
        table.extend([{"arm": "d", "seed": 0}, {"arms": "e"}])
    assert len(table.rows) == 3 and table.path.read_text().splitlines() == lines


def test_arms_are_chosen_by_their_names_and_with_a_star_by_how_they_begin():
    arms = ["joint", "queries_1", "queries_16", "creation", "creation_flops"]
    assert sweeps.matching("creation,queries_1", arms) == ["queries_1", "creation"]
    assert sweeps.matching("queries_*,joint,queries_1", arms) == ["joint", "queries_1", "queries_16"]
    assert sweeps.matching("", arms) == sweeps.matching("*", arms) == arms
    for unknown in ("queries", "joint,", "joint,c", "single_*"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no arm; choose of joint, queries_1, "):
            sweeps.matching(unknown, arms)


@pytest.mark.parametrize("sweep", [dreamllm, multimodel])
def test_the_command_of_a_row_makes_that_row_alone(sweep, tmp_path, monkeypatch, capsys):
    arms = (dreamllm_arms if sweep is dreamllm else multimodel_arms).ARMS
    made = []
    monkeypatch.setattr(sweep, "make", lambda table, name, seed, *rest: made.append((name, seed)))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))

    def asked(only):
        words = [sweep.__name__, f"--output={tmp_path}/rows.csv", "--seeds=1", f"--only={only}"]
        monkeypatch.setattr(sys, "argv", words)
        made.clear()
        sweep.main()
        return made

    for name in arms:
        assert asked(name) == [(name, 1)]
    assert sorted(asked("")) == sorted((name, 1) for name in arms)
    with pytest.raises(SystemExit):
        asked("join")
    assert "argument --only: 'join' is no arm; choose of" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["needle_1024", "needle_4096", "drill", "mixed"])
def test_document_fits_and_holds_each_needle_that_is_asked_for(source, monkeypatch):
    length = 1500
    monkeypatch.setitem(needle_corpus.SOURCES, source, (length, 1))
    tokenizer, rng = ByteTokenizer(), random.Random(0)
    haystack = np.asarray(tokenizer.encode("A line of a play. And another one. " * 200))
    for _ in range(40):
        line = needle_corpus.document(tokenizer, haystack, rng, source)
        if "text" in line:
            assert source == "mixed" and len(tokenizer.encode(line["text"])) + 2 <= length
            continue
        groups = parse_fields(line["fields"])
        assert [group.loss for group in groups] == [False, True] * (len(groups) // 2)
        whole = "".join(line[part] for group in groups for part in group.parts)
        assert source == "drill" or len(tokenizer.encode(whole)) + 2 <= length
        assert needle_corpus.CONTEXT not in whole
        answers = [line[group.parts[0]] for group in groups if group.loss]
        numbers = [number for answer in answers for number in answer.split() if number.strip(",").isdigit()]
        assert all(number.strip(",") in line["prompt0"] for number in numbers)


def test_listed_cities_read_like_a_sentence():
    assert needle_corpus.listed(["Oslo"]) == "What is the special magic number for Oslo?"
    assert needle_corpus.listed(["Oslo", "Rome"]).endswith("numbers for Oslo and Rome?")
    assert needle_corpus.listed(["Oslo", "Rome", "Lima"]).endswith("for Oslo, Rome, and Lima?")


def test_rows_of_an_evaluation_are_gathered_once_with_what_made_them(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sweeps, "run", lambda *words: asked.append(words))
    folder = tmp_path / "evaluation" / "context_256"
    folder.mkdir(parents=True)
    found = {"task": "needle", "stage": "context_256", "length": 512, "note": "beyond trained length"}
    found |= {"n": 10, "share": 0.4, "example": "left out"}
    lines = [json.dumps(found | {"depth": depth}) for depth in (0, 50)]
    (folder / "needle.jsonl").write_text("\n".join(lines) + "\n")
    for _ in range(2):
        table = sweeps.Table(tmp_path / "rows.csv", needle_miniature.COLUMNS, needle_miniature.KEY)
        needle_miniature.gather(table, str(tmp_path), "context_256", "--suite=needle", "--samples=10")
    assert [row["depth"] for row in table.rows] == ["0", "50"]
    assert {row["note"] for row in table.rows} == {"miniature, beyond trained length"}
    assert table.rows[0]["command"].startswith("python -m lwm.evaluate --workdir=runs/needle/lwm ")
    assert table.rows[0]["commit"]
    assert "--stage=context_256" in asked[0] and asked[0] == asked[1]


def example(tokens, loss):
    tokens = np.asarray(tokens, np.int32)
    return Example(tokens, np.zeros(len(tokens), bool), np.asarray(loss, bool))


def test_unmasked_rows_keep_tokens_and_the_scale_of_the_loss():
    first, second = example([1, 5, 6, 2], [0, 0, 1, 1]), example([1, 7, 2], [0, 1, 1])
    rows = [pack_row([first, second], 8), pack_row([second], 8)]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    naive = packing_ablation.unmasked(batch)
    assert naive["segments"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    assert naive["positions"][0].tolist() == list(range(8))
    np.testing.assert_array_equal(naive["tokens"], batch["tokens"])
    # L = sum of weights · nll over the number of segments: 3 with masks, 2 (a row each) without.
    np.testing.assert_allclose(naive["weights"] / 2, batch["weights"] / 3, rtol=1e-6)


def test_arms_of_the_extension_start_and_end_as_they_say():
    arms = {arm: context_extension.get_config(f"arm={arm}") for arm in context_extension.ARMS}
    stages = {arm: list(config.stages.values()) for arm, config in arms.items()}
    lengths = {arm: [stage.context_length for stage in own] for arm, own in stages.items()}
    assert tuple(lengths["none"] + lengths["theta"]) == context_extension.LENGTHS
    assert lengths["staged"] == lengths["theta"] and lengths["direct"] == [4096]
    assert {stage.rope_theta for stage in stages["staged"]} == {stages["none"][0].rope_theta}
    thetas = [stage.rope_theta for stage in stages["none"] + stages["theta"]]
    assert thetas == sorted(set(thetas))
    spent = context_extension.flops(arms["none"]) + context_extension.flops(arms["theta"])
    assert context_extension.flops(arms["direct"]) == pytest.approx(spent, rel=0.01)


def test_flops_of_the_extension_are_those_of_the_compiler_s_report():
    import dataclasses

    import jax

    from lwm.compilation.flops import train_flops
    from lwm.systems import build_model
    from lwm.training.experiment import build_experiment
    from lwm.training.program import make_program

    config = context_extension.get_config("arm=none")
    experiment = build_experiment(config.to_dict())
    (stage,) = experiment.stages.values()
    program = make_program(
        experiment,
        stage,
        lambda stage: build_model(experiment.model, dataclasses.asdict(stage)),
        jax.devices()[:2],
    )
    assert context_extension.flops(config) == pytest.approx(train_flops(program).model * stage.steps)


def test_digits_move_by_a_pixel_and_lose_what_leaves():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(digits_corpus.moved(image, (1, 0))[1:], image[:-1])
    assert not digits_corpus.moved(image, (1, 0))[0].any()
    np.testing.assert_array_equal(digits_corpus.moved(image, (0, -1))[:, :-1], image[:, 1:])


def test_spread_is_the_root_mean_square_distance_of_pairs():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 3)
    images = rng.integers(0, 256, (30, 8, 8)).astype(np.uint8)
    pairs = [(0, 1), (0, 2), (1, 2)]
    wanted = []
    for digit in range(10):
        own = images[labels == digit].astype(float)
        wanted.append(np.sqrt(np.mean([np.mean((own[i] - own[j]) ** 2) for i, j in pairs])))
    assert text_to_image.spread(images, labels) == pytest.approx(np.mean(wanted))
    assert text_to_image.spread(np.repeat(images[:10], 3, axis=0), labels) == pytest.approx(0, abs=1e-6)


def test_an_answer_is_right_if_all_that_is_learned_of_it_is():
    targets = np.array([[3, 1, 2, 0], [3, 1, 2, 0]])
    weights = np.array([[0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0]], np.float32)
    logits = np.zeros((2, 4, 5), np.float32)
    # The first is right about both tokens and wrong where nothing is learned; the second about one of them.
    for row, place, token in ((0, 0, 4), (0, 1, 1), (0, 2, 2), (1, 1, 1), (1, 2, 4)):
        logits[row, place, token] = 30
    right, nats = clip_questions.answers(logits, {"targets": targets, "weights": weights})
    assert right.tolist() == [True, False]
    np.testing.assert_allclose(nats, [0, 0, 0, 30], atol=1e-5)


def test_arms_of_the_clips_differ_in_what_is_shown_alone(tmp_path):
    full, sampled = (clip_questions.get_config(f"arm={arm}").to_dict() for arm in clip_questions.ARMS)
    *_, one = full["stages"].values()
    *_, other = sampled["stages"].values()
    assert (one.pop("shown"), other.pop("shown")) == (0, 8) and one["frames"] == clip_questions.FRAMES
    assert full.pop("experiment") != sampled.pop("experiment") and full == sampled
    rows = [
        {"arm": arm, "seed": seed, "right": 10, "n": 20, "accuracy": 0.5, "ideal": 0.6, "chance": 0.1}
        for arm in clip_questions.ARMS
        for seed in clip_questions.SEEDS
    ]
    clip_questions.draw(rows[:1], tmp_path / "first.png")
    clip_questions.draw(rows, tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > (tmp_path / "first.png").stat().st_size > 0


@pytest.mark.parametrize("name", multimodel_arms.ARMS)
def test_arm_of_multimodel_learns_what_it_is_asked_about(name):
    arm = multimodel_arms.ARMS[name]
    stage = multimodel.get_config(f"arm={name}").stages.tasks
    assert stage.batch_size == sum(arm.rows.values()) == sum(stage.mixture.values())
    assert set(arm.scored) <= set(arm.rows) - set(arm.shuffled) and set(arm.at_most) <= set(arm.rows)
    if name == "long":
        assert stage.steps == multimodel.steps_of(arm, 1) == 4 * multimodel.STEPS
        shorter = multimodel.get_config("arm=long,steps=0.3333").stages.tasks.steps
        assert shorter == multimodel.steps_of(arm, 0.3333) == 1333
        assert arm.rows.keys() == multimodel_arms.TASKS.keys()
    elif not name.startswith("compute"):
        joint = multimodel_arms.ARMS["joint"].rows
        assert all(joint[task] == rows for task, rows in arm.rows.items()), "the same updates of each task"
    else:
        assert multimodel_arms.compute(arm) == pytest.approx(1, abs=0.05)


def test_multimodel_knows_what_is_left(tmp_path):
    table = sweeps.Table(tmp_path / "rows.csv", multimodel.COLUMNS, multimodel.KEY)
    row = {"arm": "single_speech", "seed": 0, "steps": 10, "task": "speech", "score": "nats"}
    assert not multimodel.finished(table, "single_speech", 0, 10)
    table.add(row)
    assert multimodel.finished(table, "single_speech", 0, 10)
    assert not multimodel.finished(table, "single_speech", 0, 20)
    assert "time unknown yet" in multimodel.budget(table, [("joint", 1)], 20)
    table.add({"arm": "joint", "seed": 0, "steps": 10, "seconds": 60})
    assert multimodel.budget(table, [("joint", 1), ("shuffled", 0)], 20).endswith("4 minutes of training")


def test_tables_of_multimodel_compare_seed_by_seed_and_know_what_is_better():
    def row(arm, seed, score, value, steps="10", baseline="0.3"):
        known = {"task": "speech", "baseline": baseline, "baseline_name": "unigram"}
        known |= {"low": str(float(value) - 0.25), "high": str(float(value) + 0.25)}
        return known | {"arm": arm, "seed": seed, "score": score, "value": value, "steps": steps}

    rows = [row("joint", seed, "words_right", value) for seed, value in (("0", "0.5"), ("1", "0.2"))]
    rows += [row("single_speech", "1", "words_right", "0.1"), row("joint", "0", "words_right", "0.9", "5")]
    rows += [row("joint", "0", "nats", "2", baseline="3"), row("single_speech", "0", "nats", "2.5")]
    rows += [row("few_speech_100_all", "0", "words_right", "0.15")]
    gains = multimodel_tables.gains
    assert gains(rows, "speech", "words_right", "joint", "single_speech") == [pytest.approx(10)]
    assert gains(rows, "speech", "nats", "joint", "single_speech") == [0.5], "fewer nats are a gain"
    longer = [*rows, row("joint", "0", "nats", "1", "20")]
    assert gains(longer, "speech", "nats", "joint", "single_speech") == [0.5], "as many steps of both"
    _, words, nats = multimodel_tables.results(rows)
    assert words[2] == "0.35" and words[-2:] == ("1 of 2", "0 of 2"), "the longest runs alone"
    assert nats[-2:] == ("1 of 1", "1 of 1")
    curve = multimodel_tables.scarcity(rows, "speech", "words_right")["all"]
    assert curve == [(100, [0.15]), (0, [0.5, 0.2])]
    rows.append(row("few_speech_100_alone", "0", "words_right", "0.05"))
    told = dict(multimodel_tables.tables(rows))["Accuracy in points of speech, by its training samples"]
    assert told[-1] == ("gain of all over alone", "+10 ", "+10 ")


@pytest.mark.parametrize(
    "little, much, said",
    [
        ([0.3, 0.31, 0.29], [-0.1, -0.1, -0.11], "CONFIRMED: tasks with little data gain; others lose less"),
        ([0.3, 0.31, 0.29], [0.2, 0.2, 0.21], "CONFIRMED: tasks with little data gain, and so do others"),
        ([0.3, 0.31, 0.29], [-0.5, -0.5, -0.51], "REFUTED: others lose more"),
        ([0.3, 0.31, 0.29], [-0.3, -0.2, -0.4], "OPEN: others may lose more"),
        ([-0.3, -0.31, -0.29], [0.2, 0.2, 0.21], "REFUTED: tasks with little data lose"),
        ([0.3, -0.3, 0.1], [0.2, 0.2, 0.21], "OPEN: the interval"),
        ([0.3], [0.2, 0.2], "OPEN: fewer than two seeds"),
    ],
)
def test_the_pattern_of_multimodel_is_judged_by_intervals(little, much, said):
    assert multimodel_verdict.verdict(little, much).startswith(said)


def test_gains_of_multimodel_pair_seeds_that_all_tasks_have():
    nats = {
        "joint": {"a": {"0": 1.0, "1": 2.0}, "b": {"1": 3.0, "0": 5.0}},
        "single_a": {"a": {"0": 1.5, "1": 2.1}},
        "single_b": {"b": {"1": 3.3}},
    }
    rows = [
        {"arm": arm, "task": task, "seed": seed, "score": "nats", "steps": "10", "value": str(value)}
        for arm, tasks in nats.items()
        for task, values in tasks.items()
        for seed, value in values.items()
    ]
    found = multimodel_verdict.gain(rows, ("a", "b"), multimodel_verdict.joint, "single_{}".format)
    assert found == [pytest.approx((0.1 + 0.3) / 2)], "seed 1 alone was trained with all"


def test_rows_of_multimodel_are_read_and_told(tmp_path):
    table = sweeps.Table(tmp_path / "rows.csv", multimodel.COLUMNS, multimodel.KEY)
    for arm, nats in (("joint", 2.0), ("single_speech", 2.5)):
        for score in ("words_right", "nats"):
            table.add({"arm": arm, "seed": 0, "steps": 10, "task": "speech", "score": score, "value": nats})
    rows = multimodel_tables.read(tmp_path / "rows.csv")
    told = dict(multimodel_tables.tables(rows))["Joint over single, equal updates of each task"]
    assert told[1][:2] == ("speech", "little") and told[1][3].startswith("+0.50")
    assert next(multimodel_verdict.lines(rows)) == "equal updates of each task: OPEN: fewer than two seeds"
