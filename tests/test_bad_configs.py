"""Configs that are wrong in one place each, or in several: refused by name before anything is done."""

import subprocess
import sys
from pathlib import Path

import pytest

from lwm.errors import UserError
from lwm.training.validation import validate

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("share", [100, pytest.param(1, marks=pytest.mark.slow)])
def test_every_bad_config_is_refused_by_name(share):
    """Where JAX cannot be imported and nothing can be written: see tests/bad_configs.py."""
    command = [sys.executable, ROOT / "tests/bad_configs.py", f"--share={share}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ms each") >= 2 * 13, done.stdout


EXPECTED = """\
config.sead: there is no such field (value 1); did you mean 'seed'?
config.stages.a.steps: expected int, found '4'; write a whole number
config.stages.b.acumulate: there is no such field (value 2); did you mean 'accumulate'?
config.stages.b.learning_rate: -1.0 is not positive; use a number above 0
config.stages.b.batch_tokens: 100 is not a multiple of context_length = 16; use for example 96
config.optimizer.b1: 1.5 is too large; use less than 1
config.log_every: 0 is too small; use 1 or more
config.stages.b.rope_theta: 10000.0 is less than 20000 of stage a; stages must not shrink: raise it or \
change their order
config.model.dtype: 'float8' is not known; did you mean 'float32'?
config.model.kv_heads: 3 does not divide heads = 4; choose a divisor
config.stages.b.mesh.tensor: 8 does not divide config.model.heads = 4; change one of them
config.stages.b.mesh.tensor: 8 does not divide config.model.kv_heads = 3; change one of them
config.stages.b.mesh.tensor: 8 does not divide config.model.vocab_size = 259; change one of them
config.stages.b.mesh.tensor: 8 does not divide config.model.vision_vocab_size = 66; change one of them
"""


def test_all_that_is_wrong_is_told_at_once():
    stage = dict(context_length=16, batch_tokens=128, steps=4, learning_rate=0.01, mixture={"text": 1.0})
    first = stage | {"mesh": {"data": 8}, "steps": "4", "rope_theta": 2e4}
    second = stage | {"mesh": {"data": 2, "tensor": 8}, "learning_rate": -1.0, "acumulate": 2}
    config = {
        "experiment": "wrong",
        "sead": 1,
        "model": {"name": "lwm", "size": "debug", "kv_heads": 3, "dtype": "float8"},
        "stages": {"a": first, "b": second | {"batch_tokens": 100}},
        "optimizer": {"b1": 1.5},
        "log_every": 0,
    }
    with pytest.raises(UserError) as error:
        validate(config)
    assert str(error.value) == EXPECTED.strip()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 64}, "config.stages.s.frames: 64 for a model that sees no frames"),
        ({"trains": ("vision",)}, "config.stages.s.trains: ('vision',) for a model that has no such parts"),
        (
            {"context_length": 0, "batch_tokens": 0, "batch_size": 8, "mixture": {}},
            "config.stages.s.context_length: 0 for a model that reads tokens",
        ),
        ({"mesh": {"tensor": 4}}, "config.stages.s.mesh.tensor: 4 does not divide config.model.kv_heads = 2"),
        ({"text_weight": 0.0}, "config.stages.s.text_weight: 0 leaves no loss to train on"),
    ],
)
def test_what_a_stage_and_its_model_have_wrong_between_them(changes, message):
    stage = dict(context_length=64, batch_tokens=64, steps=4, learning_rate=0.01, mixture={"odd": 1.0})
    model = {"name": "lwm", "size": "debug", "vision_vocab_size": 0, "vocab_size": 260}
    with pytest.raises(UserError) as error:
        validate({"experiment": "pair", "model": model, "stages": {"s": stage | {"mesh": {}} | changes}})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "config.model.name: missing (no value); write a text there"),
        ({"name": ["lwm"]}, "config.model.name: expected str, found ['lwm']; write a text"),
        ({"name": "lmw"}, "config.model.name: 'lmw' is no model; did you mean 'lwm'?"),
        (
            {"name": "lwm", "size": "tinny"},
            "config.model.size: 'tinny' is no size of lwm; did you mean 'tiny'?",
        ),
        (
            {"name": "lwm", "size": "debug", "rope_theta": -1.0},
            "config.model.rope_theta: -1.0 is not positive",
        ),
        ({"name": "vqgan", "size": "tiny"}, "config.stages.s.context_length: 16 for a model of pictures"),
    ],
)
def test_a_model_block_that_is_wrong(model, message):
    stage = dict(
        context_length=16, batch_tokens=16, steps=4, learning_rate=0.01, mixture={"text": 1.0}, mesh={}
    )
    with pytest.raises(UserError) as error:
        validate({"experiment": "model", "model": model, "stages": {"s": stage}})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
