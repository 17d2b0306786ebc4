import pytest

from lwm.errors import UserError
from lwm.training.experiment import build_experiment
from lwm.training.stages import resolve_mesh

IMAGES = dict(context_length=0, batch_tokens=0, batch_size=8, mixture={})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"steps": 0}, "config.stages.s.steps: 0 is too small; use 1 or more"),
        ({"accumulate": 0}, "config.stages.s.accumulate: 0 is too small"),
        ({"eval_every": -1}, "config.stages.s.eval_every: -1 is too small; use 0 or more"),
        ({"eval_batches": 0}, "config.stages.s.eval_batches: 0 is too small"),
        ({"checkpoint_every": -2}, "config.stages.s.checkpoint_every: -2 is too small"),
        ({"text_weight": -0.5}, "config.stages.s.text_weight: -0.5 is too small"),
        ({"end_learning_rate": float("nan")}, "config.stages.s.end_learning_rate: nan is no finite number"),
        ({"learning_rate": 0.0}, "config.stages.s.learning_rate: 0.0 is not positive"),
        ({"learning_rate": float("inf")}, "config.stages.s.learning_rate: inf is no finite number"),
        ({"rope_theta": -1.0}, "config.stages.s.rope_theta: -1.0 is not positive"),
        ({"schedule": "cosin"}, "config.stages.s.schedule: 'cosin' is not known; did you mean 'cosine'?"),
        ({"weighting": "x"}, "config.stages.s.weighting: 'x' is not known; choose from example, token"),
        ({"warmup_steps": 5}, "config.stages.s.warmup_steps: 5 is more than steps = 4; use at most 4"),
        ({"caption_dropout": 1.5}, "config.stages.s.caption_dropout: 1.5 is too large; use at most 1"),
        (
            {"batch_tokens": 100},
            "batch_tokens: 100 is not a multiple of context_length = 16; use for example 96",
        ),
        ({"batch_tokens": 0}, "config.stages.s.batch_tokens: 0 is not a multiple"),
        ({"batch_size": 4}, "config.stages.s.batch_size: 4 counts images, but context_length is 16"),
        ({"stripe": -1}, "config.stages.s.stripe: -1 is too small"),
        ({"mixture": {}}, "config.stages.s.mixture: {} names no source"),
        ({"mixture": {"text": -1.0}}, "config.stages.s.mixture.text: -1.0 is too small; use 0 or more"),
        ({"mixture": {"text": 0.0}}, "config.stages.s.mixture: {'text': 0.0} names no source"),
        ({"text_weight": 0.0, "vision_weight": 0.0}, "and vision_weight leave nothing to learn"),
        (IMAGES | {"batch_size": 0}, "config.stages.s.batch_size: 0 leaves a stage of images"),
        (
            IMAGES | {"batch_tokens": 64},
            "config.stages.s.batch_tokens: 64 does not go with context_length = 0",
        ),
        (IMAGES | {"mixture": {"text": 0.0}}, "config.stages.s.mixture: {'text': 0.0} names no task"),
        ({"mesh": {"ring": 2}}, "config.stages.s.mesh.ring: there is no such field"),
    ],
)
def test_a_stage_out_of_range(config_of, change, message):
    with pytest.raises(UserError) as error:
        build_experiment(config_of({"s": change}))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"experiment": ""}, "config.experiment: '' is no name"),
        ({"seed": -1}, "config.seed: -1 is too small; use 0 or more"),
        ({"log_every": 0}, "config.log_every: 0 is too small; use 1 or more"),
        ({"stages": {}}, "config.stages: {} has no stage"),
        ({"optimizer": {"b2": 1.0}}, "config.optimizer.b2: 1.0 is too large; use less than 1"),
        ({"optimizer": {"clip": -1.0}}, "config.optimizer.clip: -1.0 is too small"),
        ({"checkpoint": {"keep": -1}}, "config.checkpoint.keep: -1 is too small"),
        ({"checkpoint": {"kepp": 1}}, "did you mean 'keep'?"),
    ],
)
def test_an_experiment_out_of_range(config_of, change, message):
    with pytest.raises(UserError) as error:
        build_experiment(config_of({"s": {}}) | change)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stage_name_is_a_folder_name(config_of):
    with pytest.raises(UserError, match="names a folder"):
        build_experiment(config_of({"../s": {}}))


@pytest.mark.parametrize("field, values", [("context_length", (32, 16)), ("rope_theta", (1e6, 1e5))])
def test_stages_do_not_shrink(config_of, field, values):
    stages = {name: {field: value, "batch_tokens": 256} for name, value in zip("ab", values, strict=True)}
    with pytest.raises(UserError, match=f"config.stages.b.{field}: .* is less than .* of stage a"):
        build_experiment(config_of(stages))
    build_experiment(config_of(dict(reversed(stages.items()))))


def stage_of(config_of, **block):
    return build_experiment(config_of({"s": block})).stages["s"]


def test_one_axis_takes_the_remaining_devices(config_of):
    stage = stage_of(config_of, mesh={"data": 1, "fsdp": -1, "seq": 2})
    assert resolve_mesh(stage, 8) == {"data": 1, "fsdp": 4, "tensor": 1, "seq": 2}


@pytest.mark.parametrize(
    "block, message",
    [
        (
            {"mesh": {"data": 4}},
            "config.stages.s.mesh: 'data=4 x fsdp=1 x tensor=1 x seq=1' does not fit 8 devices",
        ),
        (
            {"mesh": {"data": 3, "fsdp": -1}, "batch_tokens": 96},
            "does not fit 8 devices; make the product of the axes 8",
        ),
        ({"mesh": {"data": 0}}, "config.stages.s.mesh.data: 0 is no size here"),
        ({"mesh": {"data": -1, "seq": -1}}, "config.stages.s.mesh.seq: -1 is no size here"),
        (
            {"batch_tokens": 64},
            "config.stages.s.batch_tokens: 64 is 4 rows, not a multiple of 8 (data x fsdp x accumulate); "
            "use a multiple of 128",
        ),
        (
            {"mesh": {"data": 4, "seq": 2}, "stripe": 5},
            "config.stages.s.context_length: 16 is not a multiple of 20 (two stripes of 5 for each of",
        ),
        ({"accumulate": 3}, "is 8 rows, not a multiple of 24"),
        (IMAGES | {"batch_size": 12}, "config.stages.s.batch_size: 12 is 12 rows, not a multiple of 8"),
        (
            {"mesh": {"data": 2, "seq": 4}, "context_length": 12, "batch_tokens": 96},
            "config.stages.s.context_length: 12 is not a multiple of 8 (two chunks for each of seq = 4",
        ),
    ],
)
def test_a_mesh_that_does_not_fit(config_of, block, message):
    with pytest.raises(UserError) as error:
        resolve_mesh(stage_of(config_of, **block), 8)
    assert message in str(error.value) and "\n" not in str(error.value)
