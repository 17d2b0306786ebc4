"""A MultiModel with random weights is asked for held-out samples: which ones, and how it is scored."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import multimodel_show
from lwm.assessment import held_out
from lwm.assessment.task_answers import ask, evaluate_tasks
from lwm.data.task_records import Record, encode_png, write_task
from lwm.data.tokenizers import train_sentencepiece
from lwm.errors import UserError
from lwm.models.multimodel import SIZES, MultiModel, MultiModelConfig
from lwm.serving.task_runs import open_tasks
from lwm.training.checkpoints import stage_folder, write_params

WORDS = ("one", "two", "three", "four", "five", "six")
COUNTS = {"train": 9, "heldout": 5}
LABELS, TURNED = "labels", "turned"
CONFIG = dict(tasks=(LABELS, TURNED, "hidden"), kinds=("classify", "translate", "translate"), vocab_size=320)
CONFIG |= dict(resolution=8, source_length=16, target_length=16, classes=2)


def records(task, split):
    for at in range(COUNTS[split]):
        text = " ".join(WORDS[(at + step) % 6] for step in range(3))
        key = f"{split}_{at}"
        if task == LABELS:
            image = encode_png(np.full((8, 8, 3), 20 * at, np.uint8))
            yield Record(key, key, image=image, label="ab"[at % 2])
        else:
            yield Record(key, key, source=text, target=" ".join(reversed(text.split())))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    kinds = dict(zip(CONFIG["tasks"], CONFIG["kinds"], strict=True))
    for task in kinds:
        write_task(folder, task, {split: list(records(task, split)) for split in COUNTS})
    texts = [one.source for one in records(TURNED, "train")] * 20
    tokenizer = train_sentencepiece(texts, 280, folder / "tokenizer.model")
    sizes = {name: {"median": 1, "most": 1, "longest": 1} for name in ("source", "target", "samples")}
    about = {"tasks": {task: {"kind": kind} | COUNTS | sizes for task, kind in kinds.items()}}
    about |= {"vocab_size": tokenizer.vocab_size, "eos": tokenizer.eos, "classes": ["a", "b"]}
    (folder / "tasks.json").write_text(json.dumps(about | {"resolution": 8, "rate": 1000, "max_samples": 0}))
    return str(folder)


def write_run(folder, data, **changes):
    """A workdir with random weights, as training leaves it."""
    model = MultiModel(MultiModelConfig(**SIZES["debug"] | CONFIG | changes))
    stage = {"name": "tasks", "mixture": dict.fromkeys(CONFIG["tasks"], 1.0), "shuffle_labels": ["hidden"]}
    config = {"model": {"name": "multimodel", "size": "debug"} | CONFIG | changes, "data": {"path": data}}
    config |= {"stages": {"tasks": stage}}
    shapes, rng = jax.eval_shape(lambda key: model.init(key, {}), jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda own: jnp.asarray(0.3 * rng.normal(size=own.shape), own.dtype), shapes)
    write_params(stage_folder(folder, 0, "tasks"), params, {"config": config, "stage": stage})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), data)


def test_samples_are_held_out_and_each_is_asked_once(workdir):
    asked = ask(open_tasks(workdir), TURNED, 5)
    assert sorted(asked.wanted) == sorted(one.target for one in records(TURNED, "heldout"))
    assert [" ".join(reversed(text.split())) for text in asked.sources] == asked.wanted
    assert not (asked.rows["task"] - 1).any()


@pytest.mark.slow
def test_every_honest_task_is_scored_beside_its_baselines(data, workdir):
    held_out.run(workdir, data="", stage=None, track=lambda items, title: items)
    rows = [json.loads(line) for line in (workdir / "evaluation.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {LABELS, TURNED, "all"}, "hidden was learned from shuffled labels"
    of = {row["name"]: row for row in rows}
    assert of["labels_accuracy"]["baseline"] == 3 / 5 and of["labels_accuracy"]["n"] == 5
    assert of["labels_accuracy"]["low"] < of["labels_accuracy"]["value"] < of["labels_accuracy"]["high"]
    assert of["turned_error_rate"]["baseline"] < 1 and of["turned_nats"]["baseline_name"] == "unigram"
    assert of["turned_nats"]["value"] > 3, "random weights know nothing of 320 words"
    assert "all_dropped" not in of, "everybody has a place"
    assert of["all_routing_encoder"]["n"] == 10 and of["all_routing_encoder"]["value"] >= 0


def test_choices_that_got_no_place_are_told(data, tmp_path):
    folder = write_run(tmp_path, data, evaluation_capacity=0.01)
    rows = evaluate_tasks(folder, tasks=[LABELS], track=lambda items, title: items)
    (dropped,) = [row for row in rows if row["name"] == "all_dropped"]
    # Five pictures of a position each, of two choices; each of four experts has a single place.
    assert dropped["n"] == 10 and 0.6 <= dropped["value"] < 1 and dropped["unit"] == "share"
    assert dropped["value"] * 10 == pytest.approx(round(dropped["value"] * 10))


@pytest.fixture
def other(data, tmp_path):
    """`other(**changes)`: the data folder with another tasks.json."""

    def make(**changes):
        folder = tmp_path / "other"
        folder.mkdir()
        for name in ("task_records", "tokenizer.model"):
            (folder / name).symlink_to(f"{data}/{name}")
        about = json.loads(Path(f"{data}/tasks.json").read_text())
        (folder / "tasks.json").write_text(json.dumps(about | {"tasks": about["tasks"]} | changes))
        return folder

    return make


def refused(run, *arguments, **flags):
    with pytest.raises(UserError) as error:
        run(*arguments, **flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def evaluate(workdir, **flags):
    held_out.run(workdir, stage=None, track=lambda items, title: items, **flags)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rate": 2000}, "model.sample_rate: 1000, but the data folder has 2000"),
        ({"classes": ["a", "b", "c"]}, "model.classes: 2, but the data folder has 3"),
        ({"classes": ["a", "c"]}, "class 1 is 'c', and 'b' in DATA, which it learned from"),
        ({"classes": ["a"]}, "class 1 is None, and 'b' in DATA, which it learned from"),
    ],
)
def test_a_folder_that_means_something_else_is_refused(data, workdir, other, changes, why):
    folder = other(**changes)
    fix = "give the folder that it learned from by --data"
    expected = f"data: {folder} does not go with {workdir}: {why.replace('DATA', data)}; {fix}"
    assert refused(evaluate, workdir, data=str(folder)) == expected


def test_a_folder_without_a_task_or_with_one_of_another_kind_is_refused(data, workdir, other):
    tasks = json.loads(Path(f"{data}/tasks.json").read_text())["tasks"]
    tasks[LABELS]["kind"] = "caption"
    folder = other(tasks={name: tasks[name] for name in (LABELS, "hidden")})
    assert "labels, but in the data folder it is of kind 'caption'" in refused(
        evaluate, workdir, data=str(folder)
    )
    message = refused(evaluate, workdir, data=str(folder), tasks=[TURNED])
    assert message.startswith(f"data: {folder} does not go with {workdir}: mixture.turned: the data folder ")


def test_ids_of_another_tokenizer_are_refused(workdir, other):
    folder = other()
    (folder / "tokenizer.model").unlink()
    texts = [f"{word} and {word[::-1]}" for word in WORDS] * 20
    tokenizer = train_sentencepiece(texts, 280, folder / "tokenizer.model")
    assert "its tokenizer.model is another one than in " in refused(evaluate, workdir, data=str(folder))
    train_sentencepiece(texts, tokenizer.vocab_size - 1, folder / "tokenizer.model")
    assert "has vocab_size 279, but its tasks.json 280; make the folder again" in refused(
        evaluate, workdir, data=str(folder)
    )


def test_a_folder_that_means_the_same_is_read_and_one_without_held_out_samples_is_not(data, workdir, other):
    tasks = json.loads(Path(f"{data}/tasks.json").read_text())["tasks"]
    folder = other(tasks=tasks | {TURNED: tasks[TURNED] | {"heldout": 0}})
    run = open_tasks(workdir, data=str(folder))
    assert run.tasks == (LABELS, TURNED) and run.data == str(folder), "hidden had its labels shuffled"
    assert ask(run, LABELS, 3).wanted == ask(open_tasks(workdir), LABELS, 0).wanted[:3]
    assert refused(evaluate, workdir, data=str(folder)).startswith(
        f"data: {folder} holds out no sample of turned; prepare some"
    )


def test_another_model_is_refused(tmp_path):
    stage = {"name": "text"}
    config = {"model": {"name": "lwm"}, "stages": {"text": stage}}
    about = {"config": config, "stage": stage}
    write_params(stage_folder(tmp_path, 0, "text"), {"scale": jnp.ones(2)}, about)
    (tmp_path / "config.json").write_text(json.dumps(config))
    message = f"workdir: {tmp_path} holds another model, lwm; give a run of a MultiModel (config.model.name)"
    assert refused(open_tasks, tmp_path) == message


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tasks": "turnd"}, "did not learn 'turnd'; did you mean 'turned'?"),
        ({"workdir": "nothing"}, "workdir: nothing holds no config.json"),
        ({"data": "nothing"}, "data: nothing has no tasks.json; make it by"),
        ({"samples": 0}, "samples: 0 is less than one"),
        ({"beams": 0}, "beams: 0 is less than one"),
    ],
)
def test_what_cannot_be_shown_is_one_line(workdir, tmp_path, monkeypatch, capsys, flags, message):
    flags = {"workdir": workdir, "tasks": LABELS, "output": tmp_path / "four.png"} | flags
    monkeypatch.setattr(sys, "argv", ["show", *(f"--{name}={value}" for name, value in flags.items())])
    with pytest.raises(SystemExit) as error:
        multimodel_show.main()
    shown = capsys.readouterr().err
    assert error.value.code == 2 and shown.startswith("error: ") and message in shown
    assert shown.count("\n") == 1 and not (tmp_path / "four.png").exists()


@pytest.mark.slow
def test_two_tasks_are_shown(workdir, tmp_path, monkeypatch, capsys):
    flags = {"workdir": workdir, "tasks": f"{LABELS},{TURNED}", "samples": 2, "output": tmp_path / "two.png"}
    monkeypatch.setattr(sys, "argv", ["show", *(f"--{name}={value}" for name, value in flags.items())])
    multimodel_show.main()
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [LABELS] * 2 + [
        TURNED
    ] * 2
    assert (tmp_path / "two.png").exists()


def test_a_task_that_was_not_learned_is_refused(workdir):
    with pytest.raises(UserError, match="did not learn 'speech'; choose from labels, turned, hidden"):
        held_out.run(workdir, data="", stage=None, tasks=["speech"], track=lambda items, title: items)
