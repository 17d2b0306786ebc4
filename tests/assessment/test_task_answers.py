"""A MultiModel with random weights is asked for held-out samples: which ones, and how it is scored."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.assessment import held_out
from lwm.assessment.task_answers import ask
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


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    model = MultiModel(MultiModelConfig(**SIZES["debug"] | CONFIG))
    stage = {"name": "tasks", "mixture": dict.fromkeys(CONFIG["tasks"], 1.0), "shuffle_labels": ["hidden"]}
    config = {"model": {"name": "multimodel", "size": "debug"} | CONFIG, "data": {"path": data}}
    config |= {"stages": {"tasks": stage}}
    shapes, rng = jax.eval_shape(lambda key: model.init(key, {}), jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda own: jnp.asarray(0.3 * rng.normal(size=own.shape), own.dtype), shapes)
    write_params(stage_folder(folder, 0, "tasks"), params, {"config": config, "stage": stage})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


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
    assert of["all_routing_encoder"]["n"] == 10 and of["all_routing_encoder"]["value"] >= 0


def test_a_task_that_was_not_learned_is_refused(workdir):
    with pytest.raises(UserError, match="did not learn 'speech'; choose from labels, turned, hidden"):
        held_out.run(workdir, data="", stage=None, tasks=["speech"], track=lambda items, title: items)
