"""A stage of tasks goes through the loop: shapes, shardings, rows of metrics, refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lwm.errors import UserError
from lwm.models.multimodel_sizes import SIZES, MultiModelConfig
from lwm.systems import build_model
from lwm.training import inputs
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from lwm.training.program import make_program

CONFIG = MultiModelConfig(**SIZES["debug"])
MIXTURE = {"labels": 1.0, "copies": 2.0, "words": 1.0}
STAGE = dict(batch_size=8, mixture=MIXTURE, steps=3, learning_rate=0.01, mesh={"data": 2, "fsdp": 4})
STAGE |= dict(eval_every=3, eval_batches=2)
COUNTS = {"train": 9, "heldout": 2}
MANIFEST = {
    "tasks": {task: {"kind": kind} | COUNTS for task, kind in zip(CONFIG.tasks, CONFIG.kinds, strict=True)},
    "vocab_size": 32,
    "classes": ["a", "b"],
    "rate": 1000,
    "eos": 2,
}


class Guesser:
    """Guesses from the task alone; quick to compile. In training it is off by one nat."""

    PARTITION_RULES = ((r"bias$", P()),)

    def __init__(self, config):
        self.config = config

    def init(self, key, batch):
        return {"bias": jnp.zeros((len(self.config.tasks), 2))}

    def loss(self, params, batch, key):
        loss, metrics = self.evaluate(params, batch)
        return loss + 1, metrics

    def evaluate(self, params, batch):
        metrics, total = {"denominator": sum(jnp.sum(rows["weights"]) for rows in batch.values())}, 0.0
        for index, (task, kind) in enumerate(zip(self.config.tasks, self.config.kinds, strict=True)):
            if kind in batch:
                own = batch[kind]["weights"] * (batch[kind]["task"] == index)
                nll_B = -jax.nn.log_softmax(params["bias"])[batch[kind]["task"], batch[kind]["task"] % 2]
                total += jnp.sum(own * nll_B)
                count = jnp.sum(own)
                metrics |= {
                    f"loss_{task}": jnp.sum(own * nll_B) / jnp.maximum(count, 1),
                    f"count_{task}": count,
                }
        return total / metrics["denominator"], metrics


class Stream:
    """Endless batches of the shapes that were announced; the tasks of rows as the mixture has them."""

    def __init__(self, stage, data_dir, *, split, seed, ring, rows, config, ways):
        self.shapes = inputs.batch_shapes(stage, config, ring, ways)
        self.config, self.rng = config, np.random.default_rng([seed, split == "train"])

    def get_state(self):
        return {}

    def __next__(self):
        batch = {}
        for kind, arrays in self.shapes.items():
            rows = {
                name: self.rng.integers(0, 2, own.shape).astype(own.dtype) for name, own in arrays.items()
            }
            rows["task"][:] = self.config.kinds.index(kind)
            rows["weights"][:] = np.arange(len(rows["task"])) < 2
            batch[kind] = rows
        return batch


def config_of(**changes):
    return build_experiment(
        {"experiment": "tasks", "model": {}, "log_every": 1, "stages": {"s": STAGE | changes}}
    )


def run(workdir, model=None, manifest=None, **changes):
    config = MultiModelConfig(**SIZES["debug"] | (model or {}))
    return train(
        config_of(**changes),
        workdir,
        build_model=lambda stage: Guesser(config),
        manifest=manifest or MANIFEST,
        open_batches=Stream,
    )


def counts_of(shapes):
    return {kind: arrays["weights"].shape[0] for kind, arrays in shapes.items()}


def test_rows_of_each_kind_are_filled_up_to_what_shares_them():
    stage = config_of().stages["s"]
    assert counts_of(inputs.batch_shapes(stage, CONFIG)) == {"classify": 2, "speech": 2, "translate": 4}
    assert counts_of(inputs.batch_shapes(stage, CONFIG, ways=4)) == {
        "classify": 4,
        "speech": 4,
        "translate": 4,
    }
    stage = dataclasses.replace(stage, accumulate=3)
    assert counts_of(inputs.batch_shapes(stage, CONFIG, ways=2)) == {
        "classify": 6,
        "speech": 6,
        "translate": 6,
    }
    shapes = inputs.batch_shapes(stage, CONFIG)["speech"]
    assert {name: (own.shape[1:], str(own.dtype)) for name, own in shapes.items()} == {
        "waveform": ((256,), "float32"),
        "samples": ((), "int32"),
        "targets": ((5,), "int32"),
        "task": ((), "int32"),
        "weights": ((), "float32"),
    }


def test_a_program_cuts_rows_alone():
    experiment = config_of()
    program = make_program(experiment, experiment.stages["s"], lambda stage: Guesser(CONFIG), jax.devices())
    assert counts_of(program.batch) == {"classify": 8, "speech": 8, "translate": 8}
    for own in jax.tree.leaves(program.batch_shardings):
        assert own.spec == P(("data", "fsdp"))


def test_metrics_have_a_row_for_each_task_and_held_out_losses_are_not_random(tmp_path, rows_of):
    assert run(tmp_path / "w") is None
    *trained, held_out = rows_of(tmp_path / "w")
    assert [row["rows"] for row in trained] == [8, 16, 24] and held_out["kind"] == "eval"
    for row in trained:
        assert row["count_labels"] == row["count_words"] == row["count_copies"] == 2
        assert "loss_captions" not in row and "accuracy_captions" not in row
    assert trained[0]["loss"] == pytest.approx(1 + np.log(2)) and held_out["count_words"] == 4
    tasks = [held_out[f"loss_{task}"] for task in ("labels", "words", "copies")]
    assert held_out["loss"] == pytest.approx(np.mean(tasks)) and held_out["loss"] < np.log(2)


@pytest.mark.slow
def test_the_model_itself_learns_in_the_loop(tmp_path, rows_of):
    block = {"name": "multimodel", "size": "debug", "tasks": list(CONFIG.tasks), "kinds": list(CONFIG.kinds)}
    block |= {"dropout": 0.0, "experts": 8}
    experiment = config_of(steps=20, learning_rate=0.003)
    train(
        experiment,
        tmp_path / "w",
        build_model=lambda stage: build_model(block, dataclasses.asdict(stage)),
        manifest=MANIFEST,
        open_batches=Stream,
    )
    losses = [row["main"] for row in rows_of(tmp_path / "w") if row["kind"] == "train"]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 0},
            "batch_size: 0 leaves a stage of tasks (context_length = 0) empty; use 1 or more",
        ),
        ({"mixture": {"labels": -1.0}}, "mixture.labels: -1.0 is too small; use 0 or more"),
        ({"mixture": {"labels": 0.0}}, "mixture: {'labels': 0.0} names no task"),
        ({"batch_tokens": 8}, "batch_tokens: 8 does not go with context_length = 0"),
        ({"loss_weights": {"labels": -1.0}}, "loss_weights.labels: -1.0 is too small; use 0 or more"),
        (
            {"loss_weights": {"labels": 0.0}},
            "loss_weights.labels: 0.0 learns nothing; leave the task out of the mixture",
        ),
        (
            {"loss_weights": {"label": 1.0}},
            "loss_weights.label: 1.0 is of no task in the mixture; did you mean 'labels'?",
        ),
        (
            {"at_most": {"captions": 3}},
            "at_most.captions: 3 is of no task in the mixture; choose from labels, copies, words",
        ),
        (
            {"shuffle_labels": ["word"]},
            "shuffle_labels: 'word' is no task in the mixture; did you mean 'words'?",
        ),
        ({"at_most": {"labels": 0}}, "at_most.labels: 0 is too small; use 1 or more"),
        ({"mixture": {}, "shuffle_labels": ["words"]}, "shuffle_labels: ('words',) is about tasks, and this"),
    ],
)
def test_a_stage_out_of_range_is_refused(changes, message):
    with pytest.raises(UserError) as error:
        config_of(**changes)
    assert str(error.value).startswith(f"config.stages.s.{message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "manifest", "changes", "message"),
    [
        (
            {},
            {},
            {"mixture": {"word": 1.0}},
            "config.stages.s.mixture: the model has no task 'word'; did you",
        ),
        ({}, {}, {"batch_size": 2}, "config.stages.s.mixture: words of weight 1.0 gets none of 2 rows"),
        ({}, {}, {"mesh": {"data": 4, "seq": 2}}, "config.stages.s.mesh.seq: 2 cuts positions"),
        (
            {},
            {"vocab_size": 40},
            {},
            "config.model.vocab_size: 32, but the data folder has 40; use 40 or more",
        ),
        ({"classes": 1}, {}, {}, "config.model.classes: 1, but the data folder has 2; use 2 or more"),
        (
            {"sample_rate": 900},
            {},
            {},
            "config.model.sample_rate: 900, but the data folder has 1000; use 1000",
        ),
        ({}, {"tasks": {}}, {}, "config.stages.s.mixture.labels: the data folder has no task of that name"),
        (
            {"kinds": ("classify", "caption", "translate", "translate")},
            {},
            {},
            "config.model.kinds: 'translate' for task words, but in the data folder it is of kind 'speech'",
        ),
        (
            {},
            {"tasks": MANIFEST["tasks"] | {"words": {"kind": "speech", "train": 3, "heldout": 0}}},
            {},
            "config.stages.s.mixture.words: no sample in split 'heldout'",
        ),
        (
            {},
            {},
            {"mixture": {"text": 1.0}, "context_length": 8, "batch_tokens": 64, "batch_size": 0},
            "config.stages.s.mixture: names no tasks, which the model is for",
        ),
    ],
)
def test_what_model_or_data_lack_is_named_before_anything_is_written(
    tmp_path, model, manifest, changes, message
):
    with pytest.raises(UserError) as error:
        run(tmp_path / "w", model, MANIFEST | manifest, **changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (tmp_path / "w").exists()


def test_a_model_without_tasks_is_not_given_any(bag):
    with pytest.raises(
        UserError, match="config.stages.s.mixture: .* for a model that has no tasks; leave it"
    ):
        inputs.batch_shapes(config_of().stages["s"], bag().config)
