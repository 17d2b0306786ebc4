import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.errors import UserError
from lwm.training import seals
from lwm.training.checkpoints import (
    StageCheckpoints,
    _union,
    latest_stage,
    latest_step,
    load_params,
    saved_params,
    stage_folder,
    write_params,
)
from lwm.training.optimizers import make_optimizer
from lwm.training.recovery import newest_whole
from lwm.training.state import TrainState, init_state, state_shapes

ABOUT = {"config": {"stages": {"a": {}}}, "stage": {"name": "a"}}


@pytest.fixture
def settings():
    return dict(about=ABOUT, steps=9, every=0, keep=1)


@pytest.fixture
def state_on(bag, token_batch):
    """`state_on(mesh)`: a state and its shapes."""

    def make(mesh):
        model, batch, optimizer = bag(), token_batch(4, 16), make_optimizer(learning_rate=0.1, steps=9)
        return (
            init_state(model, optimizer, jax.random.key(1), batch, mesh),
            state_shapes(model, optimizer, batch, mesh),
        )

    return make


@pytest.mark.parametrize("there", [{"fsdp": 2, "tensor": 2, "seq": 2}, {"tensor": 4}, {"data": 1}])
def test_restores_onto_another_mesh(tmp_path, state_on, settings, mesh_of, assert_same, there):
    state, _ = state_on(mesh_of(fsdp=8))
    with StageCheckpoints(tmp_path / "0_a", **settings) as saved:
        saved.save(3, state, {"index": 3})
        saved._manager.wait_until_finished()
        _, shapes = state_on(mesh_of(**there))
        found, position = saved.restore(3, shapes)
    assert_same(found, state)
    assert position == {"index": 3}
    assert found.params["wte"]["embedding"].sharding == shapes.params["wte"]["embedding"].sharding


def test_a_state_may_be_donated_while_it_is_written(tmp_path, settings, mesh_of):
    mesh = mesh_of(data=8)
    layout = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    big = jax.device_put(jnp.arange(2.0**20).reshape(8, -1), layout)
    state = TrainState(jnp.int32(1), {"w": big}, (), jax.random.key(0))
    trample = jax.jit(lambda state: state._replace(params={"w": state.params["w"] * 0 - 1}), donate_argnums=0)
    with StageCheckpoints(tmp_path / "0_a", **settings) as saved:
        saved.save(1, state, {})
        for _ in range(5):
            state = trample(state)
        jax.block_until_ready(state)
        saved._manager.wait_until_finished()
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        found, _ = saved.restore(1, shapes)
    np.testing.assert_array_equal(found.params["w"], np.arange(2.0**20).reshape(8, -1))


def test_when_to_save_and_what_to_keep(tmp_path, state_on, settings):
    state, _ = state_on(None)
    with StageCheckpoints(tmp_path / "0_a", **settings | {"every": 4, "keep": 2}) as saved:
        due = [step for step in range(1, 10) if saved.due(step)]
        for step in due:
            saved.save(step, state, {})
    assert due == [4, 8, 9]
    with StageCheckpoints(tmp_path / "0_a", **settings) as saved:
        assert saved._manager.all_steps() == [8, 9] and saved.latest == latest_step(tmp_path / "0_a") == 9
        assert not saved.due(9)


def test_leftovers_of_a_cut_save_do_not_count(tmp_path, state_on, settings):
    folder = tmp_path / "0_a"
    (folder / "5.orbax-checkpoint-tmp-123").mkdir(parents=True)
    assert latest_step(folder) is None and latest_step(tmp_path / "none") is None
    with StageCheckpoints(folder, **settings) as saved:
        saved.save(5, state_on(None)[0], {})
    assert latest_step(folder) == 5


def test_a_full_disk_is_one_line(tmp_path, settings, monkeypatch, state_on):
    with StageCheckpoints(tmp_path / "0_a", **settings) as saved:

        def full(*args, **keywords):
            raise ValueError("RESOURCE_EXHAUSTED: error writing file: No space left on device [errno 28]")

        monkeypatch.setattr(saved._manager, "save", full)
        with pytest.raises(UserError, match="0_a: no space left .* goes on from step 0"):
            saved.save(2, state_on(None)[0], {})


def test_a_disk_that_fills_in_the_background(tmp_path, settings, monkeypatch, state_on, caplog):
    folder, (state, _) = tmp_path / "0_a", state_on(None)
    with StageCheckpoints(folder, **settings) as saved:
        saved.save(2, state, {})

    def full(checkpoint):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(seals, "write_seal", full)
    message = "0_a: no space left .* goes on from step 2"
    with pytest.raises(UserError, match=message), StageCheckpoints(folder, **settings) as saved:
        saved.save(4, state, {})
    assert newest_whole(folder) == (2, []), "the one before stays, though only one is kept"
    assert not [record for record in caplog.records if record.exc_info]


def test_what_no_training_made_is_sealed_too(tmp_path):
    write_params(tmp_path / "0_a", {"w": jnp.arange(8.0)}, ABOUT)
    assert (tmp_path / "0_a/0/seal.json").exists() and newest_whole(tmp_path / "0_a") == (0, [])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, run, config_of):
    """Two stages of training on two meshes."""
    folder = tmp_path_factory.mktemp("run")
    stages = {
        "a": {"steps": 2, "mesh": {"fsdp": 4, "tensor": 2}},
        "b": {"steps": 3, "context_length": 32, "batch_tokens": 256},
    }
    assert run(config_of(stages, model={"width": 24}), folder) is None
    return folder


def test_load_params_of_any_stage(workdir, bag, mesh_of, assert_same):
    config, stage, params = load_params(workdir)
    assert config["experiment"] == "miniature" and config["model"] == {"width": 24}
    assert stage["name"] == "b" and stage["context_length"] == 32 and stage["mesh"]["data"] == 8
    assert params["wte"]["embedding"].shape == (40, 24) and len(params["wte"]["embedding"].devices()) == 1
    _, stage, earlier = load_params(str(workdir), "a")
    assert stage["name"] == "a"
    assert not np.array_equal(earlier["lm_head"]["kernel"], params["lm_head"]["kernel"])
    mesh = mesh_of(fsdp=2, tensor=4)
    spread = load_params(workdir, "b", mesh, bag().PARTITION_RULES)[2]
    assert_same(spread, params)
    assert spread["lm_head"]["kernel"].addressable_shards[0].data.shape == (12, 10)
    assert load_params(workdir, mesh=mesh)[2]["lm_head"]["kernel"].sharding.is_fully_replicated


def test_shapes_without_reading(workdir):
    shapes = saved_params(stage_folder(workdir, 0, "a"), 2)
    assert shapes["vision_head"]["kernel"] == jax.ShapeDtypeStruct((24, 20), np.float32)
    assert latest_stage(workdir, ["a", "b"]) == "b" and latest_stage(workdir, ["x"]) is None


def test_load_params_says_what_is_missing(workdir, tmp_path):
    with pytest.raises(UserError, match=f"workdir: {tmp_path} holds no config.json"):
        load_params(tmp_path)
    with pytest.raises(UserError, match="stage: 'c' is not in .*; choose from a, b"):
        load_params(workdir, "c")
    (tmp_path / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(UserError, match="has no checkpoint of any stage yet"):
        load_params(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint of a yet"):
        load_params(tmp_path, "a")


def test_positions_of_hosts_are_one_position():
    hosts = [{"step": 4, "lanes": {"0": {"t": [1, 2]}}}, {"step": 4, "lanes": {"1": {"t": [3, 4]}}}]
    assert _union(*hosts) == {"step": 4, "lanes": {"0": {"t": [1, 2]}, "1": {"t": [3, 4]}}}
