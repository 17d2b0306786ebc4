"""A stage of questions about clips goes through the loop: shapes, shardings, resuming and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lwm.errors import UserError
from lwm.systems import build_model
from lwm.training import inputs
from lwm.training.checkpoints import load_params
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from lwm.training.program import make_program
from lwm.training.stages import Stage
from lwm.training.step import make_eval_step

SIDE = 4
CLIPS = dict(context_length=256, batch_tokens=1024, steps=4, learning_rate=0.01, frames=16)
CLIPS |= dict(mixture={"odd": 1.0, "order": 1.0}, mesh={"data": 2, "seq": 4})


@dataclasses.dataclass(frozen=True)
class ViewerConfig:
    vocab_size: int = 259
    resolution: int = SIDE
    encoder_layers: int = 1
    frame_tokens: int = 5
    feature_width: int = 7
    dtype: str = "bfloat16"


class Viewer:
    """Sees the mean colour of the frames that a position may see; no attention, quick to compile."""

    PARTITION_RULES = ((r"wte$", P("tensor", None)), (r"eye$", P(None, None)), (r"head$", P(None, "tensor")))

    def __init__(self, config):
        self.config = config

    def init(self, key, batch):
        V = self.config.vocab_size
        shapes = {"wte": (V, 8), "eye": (3, 8), "head": (8, V)}
        return {name: jax.random.normal(key, shape) for name, shape in shapes.items()}

    def loss(self, params, batch, key):
        colours_BFC = batch["frames"].mean(axis=(2, 3), dtype=jnp.float32) / 255
        ids_BF, media_BT = batch["frame_ids"], batch["media"]
        sees_BTF = (ids_BF[:, None] <= media_BT[..., None]) & (ids_BF[:, None] > 0)
        share_BTF = sees_BTF / jnp.maximum(sees_BTF.sum(axis=-1, keepdims=True), 1)
        x_BTD = params["wte"][batch["tokens"]] + share_BTF @ colours_BFC @ params["eye"]
        logits_BTV = jax.nn.log_softmax(x_BTD @ params["head"])
        nll_BT = -jnp.take_along_axis(logits_BTV, batch["targets"][..., None], -1)[..., 0]
        segments = jnp.sum(jnp.max(batch["segments"], axis=1)).astype(jnp.float32)
        return jnp.sum(batch["weights"] * nll_BT) / segments, {"denominator": segments}


@pytest.fixture(scope="module")
def data(noise_videos):
    return noise_videos(SIDE, train=24, heldout=8)


def config_of(data, **changes):
    blocks = {"s": CLIPS | changes}
    about = {"experiment": "clips", "model": {}, "log_every": 1, "data": {"path": str(data)}}
    return build_experiment(about | {"stages": blocks})


def run(data, workdir, *, model=None, opened=inputs.open_batches, **changes):
    config = ViewerConfig(**(model or {}))
    return train(
        config_of(data, **changes), workdir, build_model=lambda stage: Viewer(config), open_batches=opened
    )


def batch_of(data, index=0, count=1, ring=1, **changes):
    stage = config_of(data, **changes).stages["s"]
    rows = inputs.HostRows(index, count)
    return stage, next(inputs.open_batches(stage, data, split="train", seed=0, ring=ring, rows=rows))


@pytest.mark.parametrize("changes", [{}, {"shown": 8}, {"questions": 2, "context_length": 512}])
def test_batches_have_the_shapes_that_were_announced(data, changes):
    stage, batch = batch_of(data, ring=4, **changes)
    expected = inputs.batch_shapes(stage, ViewerConfig(), ring=4)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in expected.items()
    }


def test_features_take_the_place_of_frames_if_the_model_has_no_encoder(data):
    stage = config_of(data).stages["s"]
    shapes = inputs.batch_shapes(stage, ViewerConfig(encoder_layers=0), ring=8)
    assert "frames" not in shapes
    assert (shapes["features"].shape, shapes["features"].dtype) == ((4, 24, 5, 7), jnp.bfloat16)
    assert shapes["frame_ids"].shape == (4, 24) and shapes["media"].shape == (4, 256)


def test_a_program_lays_frames_out_along_the_ring(data):
    experiment = config_of(data)
    program = make_program(
        experiment, experiment.stages["s"], lambda stage: Viewer(ViewerConfig()), jax.devices()
    )
    for name in ("tokens", "media", "frames", "frame_ids"):
        assert program.batch_shardings[name].spec == P(("data", "fsdp"), "seq")
    assert program.batch["frames"].shape == (4, 20, SIDE, SIDE, 3)


@pytest.mark.parametrize("encoder_layers", [0, 1])
def test_a_program_of_the_model_itself_needs_shapes_alone(encoder_layers):
    experiment = config_of("")
    block = {"name": "cross_attention", "size": "debug", "encoder_layers": encoder_layers}
    program = make_program(
        experiment, experiment.stages["s"], lambda stage: build_model(block, vars(stage)), jax.devices()
    )
    assert ("features" in program.batch) == (encoder_layers == 0)
    assert all(leaf.sharding.mesh.shape["seq"] == 4 for leaf in jax.tree.leaves(program.state.params))


def test_any_mesh_and_any_number_of_hosts_give_one_loss(data):
    model, losses = Viewer(ViewerConfig()), []
    params = model.init(jax.random.key(0), {})
    evaluate = make_eval_step(model)
    for ring, count in ((1, 1), (4, 1), (2, 2)):
        parts = [batch_of(data, index, count, ring)[1] for index in range(count)]
        batch = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        losses.append(float(evaluate(params, batch, jax.random.key(0))["loss"]))
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


class Cut(Exception):
    pass


class Breaking:
    """Batches whose second one for training never comes."""

    def __init__(self, batches):
        self.batches = batches
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        if self.get_state()["step"] == 3:
            raise Cut
        return next(self.batches)


def test_a_run_that_was_cut_goes_on_bit_for_bit(data, tmp_path):
    settings = {"checkpoint_every": 2, "eval_every": 4, "eval_batches": 1}

    def breaking(*arguments, split, **named):
        batches = inputs.open_batches(*arguments, split=split, **named)
        return Breaking(batches) if split == "train" else batches

    assert run(data, tmp_path / "once", **settings) is None
    with pytest.raises(Cut):
        run(data, tmp_path / "cut", opened=breaking, **settings)
    assert run(data, tmp_path / "cut", **settings) is None
    once, cut = (load_params(tmp_path / name)[2] for name in ("once", "cut"))
    jax.tree.map(np.testing.assert_array_equal, once, cut)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"odd": 1.0, "text": 1.0}}, "mixture: there is no question 'text'; choose from odd"),
        ({"frames": 20}, "frames: 20 is not a multiple of 8 above it; use for example 64"),
        ({"shown": 32}, "shown: 32 of 16 frames; use 1 to 16, or 0 for all"),
        ({"frames": 0, "mixture": {"text": 1.0}, "shown": 8}, "shown: 8 is about clips, but frames is 0"),
        ({"frames": 0, "mixture": {"text": 1.0}, "questions": 2}, "questions: 2 is about clips, but frames"),
        ({"questions": 15}, "context_length: 256 does not hold the text about 270 frames"),
        (
            {"context_length": 0, "batch_tokens": 0, "batch_size": 4, "mixture": {}},
            "frames: 16 does not go with context_length = 0",
        ),
    ],
)
def test_a_stage_that_asks_nothing_is_refused(data, changes, message):
    with pytest.raises(UserError) as error:
        config_of(data, **changes)
    assert str(error.value).startswith(f"config.stages.s.{message}") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"encoder_layers": 0}, {}, "config.model.encoder_layers: 0 reads stored features"),
        (
            {"resolution": 8},
            {},
            "config.model.resolution: 8, but the images of the data folder have 4 pixels",
        ),
        ({"vocab_size": 64}, {}, "config.model.vocab_size: 64, but the data folder uses 259 ids"),
        (
            {},
            {"context_length": 128, "mesh": {"data": 8}},
            "config.stages.s.context_length: 128 does not hold 1 x ",
        ),
        (
            {},
            {"frames": 0, "mixture": {"text": 1.0}},
            "config.stages.s.frames: 0 frames for a model that looks at clips; give for example 64",
        ),
    ],
)
def test_what_model_or_data_lack_is_named_before_anything_is_written(data, tmp_path, model, changes, message):
    with pytest.raises(UserError) as error:
        run(data, tmp_path / "w", model=model, **changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (tmp_path / "w").exists()


def test_a_model_of_text_is_not_asked_about_clips(data, bag):
    stage = config_of(data).stages["s"]
    with pytest.raises(UserError, match="config.stages.s.frames: 16 for a model that sees no frames"):
        inputs.batch_shapes(stage, bag().config)


def test_stages_without_clips_need_no_model_to_know_their_batch():
    plain = Stage("s", 1, 0.1, mesh=None, context_length=16, batch_tokens=32, mixture={"text": 1.0})
    assert {shape.shape for shape in inputs.batch_shapes(plain).values()} == {(2, 16)}
