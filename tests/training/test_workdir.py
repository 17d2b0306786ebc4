import json
import platform
import subprocess
import sys

import jax
import pytest

from lwm.errors import UserError
from lwm.training import provenance

STAGES = {"a": {"steps": 2}, "b": {"steps": 2, "context_length": 32, "batch_tokens": 256}}


@pytest.fixture
def begun(tmp_path, run, config_of):
    """A workdir in which stage a is done and b is not."""
    run(config_of(STAGES), tmp_path / "w", stop_after="a")
    return tmp_path / "w"


@pytest.mark.parametrize(
    "stages, fields, message",
    [
        (
            {},
            {"experiment": "other"},
            "config.experiment: 'other', but .* was begun with 'miniature'; change it back",
        ),
        ({}, {"model": {"width": 8}}, "config.model.width: 8, but .* was begun with None"),
        ({}, {"seed": 4}, "config.seed: 4, but .* was begun with 3"),
        ({}, {"init": "/x"}, "config.init: '/x', but .* was begun with ''"),
        ({}, {"optimizer": {"b1": 0.5}}, "config.optimizer.b1: 0.5, but .* was begun with 0.9"),
        ({"a": {"steps": 9}}, {}, "config.stages.a.steps: 9, but .* was begun with 2"),
        ({"a": {"steps": 2, "mixture": {"video": 1.0}}}, {}, "config.stages.a.mixture"),
    ],
)
def test_another_run_is_refused_and_left_alone(begun, run, config_of, stages, fields, message):
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*")}
    with pytest.raises(UserError, match=message) as error:
        run(config_of(STAGES | stages, **fields), begun)
    assert "use another --workdir" in str(error.value) and "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*")} == before


def test_each_start_is_told_with_what_it_was_made_of(begun, run, config_of):
    (first,) = (begun / "starts").iterdir()
    assert run(config_of(STAGES), begun) is None
    first, second = (json.loads(path.read_text()) for path in sorted((begun / "starts").iterdir()))
    assert first["config"] == json.loads((begun / "config.json").read_text())
    assert first["config"]["optimizer"]["b2"] == 0.95, "defaults are written too"
    assert list(first["models"]) == ["a", "b"] and list(second["models"]) == ["b"]
    assert second["models"]["b"]["width"] == 16
    assert first["versions"]["jax"] == jax.__version__ and first["python"] == platform.python_version()
    assert [device["id"] for device in first["devices"]] == [device.id for device in jax.devices()]
    assert {device["platform"] for device in first["devices"]} == {"cpu"} and first["processes"] == 1
    assert first["commit"] == provenance.commit() and first["command"] == sys.argv


def test_the_commit_of_a_checkout(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    assert provenance.commit(tmp_path) is None
    (tmp_path / "file").write_text("1")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "one"], ["tag", "-am", "v", "v1"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert provenance.commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert provenance.commit(tmp_path) == f"{head}-dirty"


def test_stages_keep_their_order(begun, run, config_of):
    with pytest.raises(UserError, match="config.stages, number 0: 'first', but .* was begun with 'a'"):
        run(config_of({"first": {}} | STAGES), begun)


def test_what_depends_on_the_machine_may_change(begun, run, config_of):
    stages = {
        "a": {"steps": 2, "mesh": {"fsdp": 8}, "eval_every": 1},
        "b": {"steps": 1, "context_length": 32, "batch_tokens": 512, "learning_rate": 0.5},
        "c": {"steps": 1, "context_length": 32, "batch_tokens": 256},
    }
    assert run(config_of(stages, log_every=2), begun) is None
    assert list(json.loads((begun / "config.json").read_text())["stages"]) == ["a", "b", "c"]


def test_a_run_that_was_begun_before_a_field_existed_goes_on(begun, run, config_of):
    path = begun / "config.json"
    config = json.loads(path.read_text())
    for block in config["stages"].values():
        for field in ("stripe", "recolour", "loss_weights", "shuffle_labels"):
            del block[field]
    path.write_text(json.dumps(config))
    assert run(config_of(STAGES), begun) is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "stages"])
def test_files_of_nobody(tmp_path, run, config_of, name):
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"holds {name} but no config.json; choose another folder"):
        run(config_of(STAGES), tmp_path)


@pytest.mark.parametrize("text", ['{"architectures": ["Llama"]}', "not json", "[]"])
def test_a_config_of_somebody_else(tmp_path, run, config_of, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json was not written by lwm.train; choose another folder"):
        run(config_of(STAGES), tmp_path)
    assert (tmp_path / "config.json").read_text() == text


def test_a_file_is_no_folder(tmp_path, run, config_of):
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="is a file; choose a folder"):
        run(config_of(STAGES), tmp_path / "f")


def test_a_field_that_is_newer_than_the_run_had_its_default(begun, run, config_of):
    path = begun / "config.json"
    written = json.loads(path.read_text())
    for block in written["stages"].values():
        del block["stripe"]
    path.write_text(json.dumps(written))
    assert run(config_of(STAGES), begun) is None
    path.write_text(json.dumps(written))
    with pytest.raises(UserError, match="config.stages.a.stripe: 8, but .* was begun with 0"):
        run(config_of(STAGES | {"a": {"steps": 2, "stripe": 8}}), begun)
