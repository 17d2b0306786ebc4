import shutil
from collections import namedtuple
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.training.plan import check_space
from lwm.training.stages import Axes, Stage
from lwm.training.state import TrainState


@pytest.mark.parametrize(
    "change, fields, message",
    [
        (
            {"mesh": {"data": 4}},
            {},
            "config.stages.s.mesh: 'data=4 x fsdp=1 x tensor=1 x seq=1' does not fit 8 devices",
        ),
        ({"accumulate": 2}, {}, "config.stages.s.batch_tokens: 128 is 8 rows, not a multiple of 16"),
        (
            {"mixture": {"txt": 1.0}},
            {},
            "config.stages.s.mixture.txt: the data folder has no source of that name; did you mean 'text'?",
        ),
        (
            {"mixture": {"video": 1.0}, "eval_every": 1},
            {},
            "config.stages.s.mixture.video: no document in split 'heldout'",
        ),
        (
            {},
            {"model": {"vocab_size": 32}},
            "config.model.vocab_size: 32, but the data folder uses 40 ids; use 40 or more",
        ),
        (
            {"mixture": {"video": 1.0}},
            {"model": {"vision_vocab_size": 16}},
            "config.model.vision_vocab_size: 16, but source 'video' uses 20 codes",
        ),
        (
            {"mixture": {"video": 1.0}},
            {"model": {"vision_vocab_size": 0}},
            "config.model.vision_vocab_size: 0, but source 'video' uses 20 codes",
        ),
        ({"mesh": {"seq": 8}}, {"model": {"width": 12}}, "config.stages.s.mesh: "),
        (
            dict(context_length=0, batch_tokens=0, batch_size=8, mixture={}),
            {"model": {"resolution": 32}},
            "config.model.resolution: 32, but the images of the data folder have 16 pixels; use 16",
        ),
        ({}, {"init": "/nowhere"}, "config.init: /nowhere is no workdir of lwm.train; give one, or ''"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(change, fields, message, run, config_of, tmp_path):
    with pytest.raises(UserError) as error:
        run(config_of({"s": change}, **fields), tmp_path / "w")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "w").exists()


def test_a_mistake_in_a_later_stage_is_found_at_once(run, config_of, tmp_path):
    with pytest.raises(UserError, match="config.stages.z.mesh"):
        run(config_of({"a": {}, "z": {"mesh": {"data": 4}}}), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_what_the_data_pipeline_refuses_is_named_with_its_stage(run, config_of, tmp_path):
    def refuse(*arguments, **settings):
        raise UserError("context_length: 16 does not hold a frame; give 20 or more")

    with pytest.raises(UserError, match="config.stages.a.context_length: 16 does not hold a frame"):
        run(config_of({"a": {}}), tmp_path / "w", open_batches=refuse)


def test_no_room_for_the_checkpoints(run, config_of, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(UserError, match="has 0.0 GB of free space, its checkpoints need"):
        run(config_of({"a": {}}), tmp_path / "w")
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "keep, there, free, fits",
    [
        (2, (), 2999, False),  # two that stay, and the one that is written before the first of them goes
        (2, (), 3000, True),
        (2, (4,), 2000, True),
        (2, (4, 8), 999, False),
        (2, (4, 8), 1000, True),
        (1, (4, 8, 12), 1000, True),  # more were kept before
        (0, (4, 8), 1999, False),  # all of them stay
        (0, (4, 8), 2000, True),
    ],
)
def test_checkpoints_that_are_there_need_no_more_room(keep, there, free, fits, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - free, free))
    for step in there:
        (tmp_path / "stages" / "1_b" / str(step)).mkdir(parents=True)
    stage = Stage("b", steps=20, learning_rate=0.01, mesh=Axes())
    state = TrainState(step=np.int32(0), params=np.zeros(249, np.float32), opt_state=(), key=())
    plan = SimpleNamespace(index=1, stage=stage, state=state)
    with nullcontext() if fits else pytest.raises(UserError, match="of free space, its checkpoints need"):
        check_space(tmp_path, [plan], keep)


def test_unknown_last_stage_and_missing_data(run, config_of, tmp_path):
    with pytest.raises(UserError, match="stop_after: 'aa' is no stage; did you mean 'a'"):
        run(config_of({"a": {}}), tmp_path / "w", stop_after="aa")
    with pytest.raises(UserError, match="config.data.path: '' is no folder"):
        run(config_of({"a": {}}), tmp_path / "w", manifest=None)
    with pytest.raises(UserError, match="has no data.json"):
        run(config_of({"a": {}}, data={"path": str(tmp_path)}), tmp_path / "w", manifest=None)
    assert not (tmp_path / "w").exists()
