"""A stage of documents of text and pictures: shapes, what it trains and what it leaves alone, refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from PIL import Image

from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.manifest import load_manifest
from lwm.errors import UserError
from lwm.systems import build_model
from lwm.training import inputs
from lwm.training.checkpoints import load_params
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from lwm.training.optimizers import make_optimizer, sparing
from lwm.training.program import make_program

BLOCK = {"name": "dreamllm", "size": "debug", "decoder": {"text_vocab_size": 259}}  # bytes
STAGE = dict(
    context_length=64, batch_tokens=256, steps=2, learning_rate=0.01, images=3, mesh={"data": 2, "seq": 4}
)
STAGE |= dict(mixture={"a": 1.0})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    where, lines = tmp_path_factory.mktemp("pages"), []
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(where / f"{number}.png")
        images = [{"path": f"{number}.png", "position": 1}]
        lines.append(
            {"texts": [f"stamp {number}"], "images": images, "split": ("train", "heldout")[number > 5]}
        )
    (where / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare_pages(input=str(where), output=where / "data", resolution=8, track=lambda items, *_: items)
    return where / "data"


def config_of(data, *, stages=None, **changes):
    blocks = {name: STAGE | own for name, own in (stages or {"s": changes}).items()}
    about = {"experiment": "pages", "model": BLOCK, "log_every": 1, "data": {"path": str(data)}}
    return build_experiment(about | {"stages": blocks})


def model_of(stage, **changes):
    return build_model(BLOCK | changes, dataclasses.asdict(stage))


def test_losses_of_documents_have_the_paper_s_weights_unless_a_config_says_others(data):
    experiment = config_of(data, stages={"a": {}, "b": {"vision_weight": 0.5}, "c": {"images": 0}})
    found = {name: (stage.text_weight, stage.vision_weight) for name, stage in experiment.stages.items()}
    assert found == {"a": (1.0, 10.0), "b": (1.0, 0.5), "c": (0.5, 0.5)}
    assert model_of(experiment.stages["a"]).config.vision_weight == 10


@pytest.mark.parametrize("changes", [{}, {"decoder_weight": 1.0, "forms": {"a": "pairs"}}])
def test_batches_have_the_shapes_that_were_announced(data, changes):
    stage = config_of(data, **changes).stages["s"]
    config = model_of(stage).config
    rows = inputs.HostRows(0, 1)
    batch = next(inputs.open_batches(stage, data, split="train", seed=0, ring=4, rows=rows, config=config))
    expected = inputs.batch_shapes(stage, config, ring=4)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in expected.items()
    }
    assert batch["frames"].shape == (4, 4, 8, 8, 3)
    if "captions" in batch:
        assert batch["captions"][0, 0, :7].tolist() == [1, *(byte + 3 for byte in b"stamp ")]


def test_a_program_cuts_pictures_along_the_ring_and_keeps_no_moments_of_what_is_frozen(data):
    experiment = config_of(data, trains=("projector", "queries", "condition"))
    program = make_program(experiment, experiment.stages["s"], model_of, jax.devices())
    for name in ("tokens", "places", "frames", "frame_weights"):
        assert program.batch_shardings[name].spec == P(("data", "fsdp"), "seq")
    sizes = {name: len(jax.tree.leaves(own)) for name, own in program.state.params.items()}
    moments = 2 * sum(sizes[name] for name in ("projector", "queries", "condition"))
    assert len([leaf for leaf in jax.tree.leaves(program.state.opt_state) if leaf.ndim]) == moments


def test_spared_parts_neither_move_nor_count():
    params = {"a": {"w": jnp.full((2, 2), 3.0)}, "b": {"w": jnp.full((2, 2), 5.0)}}
    gradients = {"a": {"w": jnp.full((2, 2), 1.0)}, "b": {"w": jnp.full((2, 2), 1000.0)}}
    plain = make_optimizer(learning_rate=0.1, steps=9, weight_decay=0.5, clip=1.0)
    spared = sparing(plain, ("b",))
    updates, _ = spared.update(gradients, spared.init(params), params)
    own = {"a": params["a"]}
    expected, _ = plain.update({"a": gradients["a"]}, plain.init(own), own)
    after = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(after["b"]["w"], params["b"]["w"])
    np.testing.assert_allclose(updates["a"]["w"], expected["a"]["w"], rtol=1e-6)


@pytest.mark.slow
def test_stages_train_what_they_say_and_a_stopped_run_goes_on(data, tmp_path, assert_same):
    stages = {
        "parts": dict(
            trains=("vision", "language", "decoder", "contrast"),
            vision_weight=0.0,
            decoder_weight=1.0,
            contrast_weight=1.0,
        ),
        "align": dict(trains=("projector", "queries", "condition"), forms={"a": "pairs"}, eval_every=2),
    }

    def go(workdir, **changes):
        experiment = config_of(data, stages=stages)
        assert train(experiment, workdir, build_model=model_of, **changes) is None
        return experiment

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    go(whole)
    go(cut, stop_after="parts")
    go(cut)
    before, after = (load_params(whole, stage)[2] for stage in ("parts", "align"))
    assert_same(after, load_params(cut, "align")[2])
    for name in before:
        moved = [
            bool(np.any(a != b))
            for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]), strict=True)
        ]
        assert all(moved) if name in stages["align"]["trains"] else not any(moved), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": 0},
            "stages.s.images: 0 for a model that reads documents with pictures; give for example 4",
        ),
        ({"images": -1}, "stages.s.images: -1 is too small; use 0 or more"),
        ({"frames": 16}, "stages.s.images: 3 are of documents, but frames asks about clips"),
        ({"forms": {"a": "both"}}, "stages.s.forms.a: 'both' is not known; choose from joint"),
        ({"forms": {"b": "joint"}}, "stages.s.forms.b: 'joint' is of no source in the mixture"),
        ({"trains": ("eyes",)}, "stages.s.trains[0]: 'eyes' is not known; choose from vision"),
        ({"mixture": {"b": 1.0}}, "stages.s.mixture.b: the data folder has no source of that name"),
        ({"context_length": 10, "batch_tokens": 80, "mesh": {"data": 8}}, "context_length: 10 does not hold"),
    ],
)
def test_a_stage_that_does_not_fit_is_named(data, changes, message):
    def check():
        stage = config_of(data, **changes).stages["s"]
        config = model_of(stage).config
        inputs.batch_shapes(stage, config)
        inputs.check_data(stage, load_manifest(data), config)
        rows = inputs.HostRows(0, 1)
        inputs.open_batches(stage, data, split="train", seed=0, ring=1, rows=rows, config=config)

    with pytest.raises(UserError) as error:
        check()
    assert str(error.value).removeprefix("config.").startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "manifest", "message"),
    [
        (
            {},
            {"pages": {}},
            "config.stages.s.images: 3, but the data folder holds no documents with pictures",
        ),
        ({}, {"resolution": 16}, "config.model.vision.resolution: 8, but the data folder has 16; use 16"),
        ({"dream_start": 258}, {}, "config.model.dream_start: 258, but the data folder has 259; use 259"),
    ],
)
def test_what_model_and_data_do_not_share_is_named(data, model, manifest, message):
    stage = config_of(data).stages["s"]
    with pytest.raises(UserError) as error:
        inputs.check_data(stage, load_manifest(data) | manifest, model_of(stage, **model).config)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_a_model_without_documents_is_not_given_any(data, bag):
    stage = config_of(data).stages["s"]
    with pytest.raises(UserError, match="images: 3 for a model that reads no documents; leave it out"):
        inputs.batch_shapes(stage, bag().config)
