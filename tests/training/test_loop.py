import os
import shutil
import signal

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from lwm.errors import UserError
from lwm.training.checkpoints import latest_step, load_params, stage_folder
from lwm.training.metrics import read_rows

STAGES = {
    "a": dict(steps=5, checkpoint_every=2, eval_every=2, mesh={"fsdp": 4, "seq": 2}),
    "b": dict(steps=4, checkpoint_every=3, context_length=32, mesh={"data": 2, "tensor": 2, "seq": 2}),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, run, config_of):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(config_of(STAGES), folder) is None
    return folder


@pytest.mark.parametrize(
    "cuts",
    [
        [("a", 1)],  # before anything was saved
        [("a", 3), ("b", 2)],  # after a checkpoint, and in the next stage before one
        [("b", 0)],  # at the boundary
        [("a", 4), ("a", 4), ("b", 3)],
    ],
)
def test_resumed_is_uninterrupted_bit_for_bit(
    cuts, uninterrupted, tmp_path, run, config_of, saved, rows_of, assert_same
):
    for cut in cuts:
        assert run(config_of(STAGES), tmp_path, cut) == "cut"
    assert run(config_of(STAGES), tmp_path) is None
    for stage in ("0_a", "1_b"):
        (arrays, position), (expected, end) = (
            saved(folder / "stages" / stage) for folder in (tmp_path, uninterrupted)
        )
        assert_same(arrays, expected)
        assert position == end
    assert rows_of(tmp_path) == rows_of(uninterrupted)


@pytest.fixture(scope="module")
def kept(tmp_path_factory, run, config_of):
    """All checkpoints of a run."""
    folder = tmp_path_factory.mktemp("kept")
    assert run(config_of(STAGES, checkpoint={"keep": 0}), folder) is None
    return folder


@pytest.mark.parametrize("stage, step", [("0_a", 4), ("1_b", 3)])
def test_a_save_that_was_cut_short_is_done_again(
    stage, step, kept, tmp_path, run, config_of, saved, rows_of, assert_same
):
    """As a kill leaves a workdir: half of a checkpoint, nothing after it, and rows that ran ahead of it."""
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    for folder in list((tmp_path / "stages").glob("*/*")):
        if (folder.parent.name, int(folder.name)) > (stage, step):
            shutil.rmtree(folder)
    whole = tmp_path / "stages" / stage / str(step)
    half = whole.rename(whole.with_name(f"{step}.orbax-checkpoint-tmp"))
    files = sorted(path for path in half.rglob("*") if path.is_file())
    for path in files[::2]:
        path.unlink()
    for path in files[1::2]:
        os.truncate(path, path.stat().st_size // 2)
    os.truncate(tmp_path / "metrics.jsonl", (tmp_path / "metrics.jsonl").stat().st_size - 9)
    assert run(config_of(STAGES), tmp_path) is None
    for name in ("0_a", "1_b"):
        (arrays, position), (expected, end) = (saved(run / "stages" / name) for run in (tmp_path, kept))
        assert_same(arrays, expected)
        assert position == end
    assert rows_of(tmp_path) == rows_of(kept)


def test_rows(uninterrupted):
    rows = read_rows(uninterrupted / "metrics.jsonl")
    train = [row for row in rows if row["kind"] == "train"]
    assert [(row["stage"], row["step"]) for row in train] == [("a", n) for n in range(1, 6)] + [
        ("b", n) for n in range(1, 5)
    ]
    assert [row["tokens"] for row in train] == [128 * n for n in range(1, 10)]
    assert [(row["stage"], row["step"]) for row in rows if row["kind"] == "eval"] == [
        ("a", 2),
        ("a", 4),
        ("a", 5),
    ]
    assert {"loss", "learning_rate", "gradient_norm", "text_nll", "tokens_per_second", "seconds"} <= train[
        0
    ].keys()
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)
    # Every evaluation looks at the same batches through the same noise: a better model, a lower loss.
    evaluations = [row["loss"] for row in rows if row["kind"] == "eval"]
    assert evaluations[0] > evaluations[1] > evaluations[2]


def test_log_every(tmp_path, run, config_of, rows_of):
    run(config_of({"a": {"steps": 7}}, log_every=3), tmp_path)
    assert [row["step"] for row in rows_of(tmp_path)] == [1, 3, 6, 7]


def test_a_finished_run_says_so_and_changes_nothing(uninterrupted, run, config_of, capsys):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}
    assert run(config_of(STAGES), uninterrupted, ("b", 0), manifest=None) is None
    assert "all 2 stages of miniature are done" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")} == before


def test_stage_by_stage_is_all_at_once(uninterrupted, tmp_path, run, config_of, rows_of):
    run(config_of(STAGES), tmp_path, stop_after="a")
    assert {row["stage"] for row in rows_of(tmp_path)} == {"a"}
    run(config_of(STAGES), tmp_path)
    assert rows_of(tmp_path) == rows_of(uninterrupted)


def test_the_next_stage_takes_weights_and_nothing_else(uninterrupted, tmp_path, run, config_of, saved):
    still = STAGES | {"b": STAGES["b"] | {"steps": 1, "learning_rate": 1e-30}}
    run(config_of(still), tmp_path)
    (a, _), (b, position) = saved(tmp_path / "stages" / "0_a"), saved(tmp_path / "stages" / "1_b")
    for x, y in zip(jax.tree.leaves(a["params"]), jax.tree.leaves(b["params"]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    assert b["rest"]["step"] == 1 and position["index"] == 1
    counts = [leaf for leaf in jax.tree.leaves(b["rest"]["opt_state"]) if np.ndim(leaf) == 0]
    assert counts and all(count == 1 for count in counts)
    assert not np.array_equal(a["rest"]["key"], b["rest"]["key"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(
    number, uninterrupted, tmp_path, run, config_of, rows_of, stream_class, capsys
):
    stages = {
        "a": {key: value for key, value in STAGES["a"].items() if key != "checkpoint_every"},
        "b": STAGES["b"],
    }

    class Kicked(stream_class):
        def __next__(self):
            if self.index == 3 and self.split == "train":
                os.kill(os.getpid(), number)
            return super().__next__()

    before = signal.getsignal(number)
    assert run(config_of(stages), tmp_path, open_batches=Kicked) == number
    assert "stopped and saved at step" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    assert run(config_of(stages), tmp_path) is None
    assert rows_of(tmp_path) == rows_of(uninterrupted)


def test_a_signal_in_the_last_step_of_a_stage_ends_the_run(tmp_path, run, config_of, stream_class, capsys):
    class Kicked(stream_class):
        def __next__(self):
            if self.index == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    stages = {"a": {"steps": 1}, "b": {"steps": 1}}
    assert run(config_of(stages), tmp_path, open_batches=Kicked) == signal.SIGTERM
    assert [folder.name for folder in (tmp_path / "stages").iterdir()] == ["0_a"]
    assert "a · stopped and saved at step 1 of 1; run again to go on" in capsys.readouterr().out
    # Now it comes in the last step of all: nothing is left to go on with.
    assert run(config_of(stages), tmp_path, open_batches=Kicked) is None
    shown = capsys.readouterr().out
    assert "stopped" not in shown and "run again" not in shown
    assert [latest_step(tmp_path / "stages" / name) for name in ("0_a", "1_b")] == [1, 1]


@pytest.mark.parametrize(
    "cut, warned, stopped",
    [
        (("a", 4), ("a", 4), {"0_a": 5}),  # a run that goes on, before its first step, which ends the stage
        (None, ("b", 0), {"0_a": 5, "1_b": 1}),  # between two stages
    ],
)
def test_a_warning_to_a_pod_is_heard_whenever_it_comes(
    cut, warned, stopped, uninterrupted, tmp_path, run, config_of, rows_of, stream_class, monkeypatch
):
    if cut:
        assert run(config_of(STAGES), tmp_path, cut) == "cut"
    asked, named = [0], []

    class Warned(stream_class):
        def __next__(self):
            if (self.stage.name, self.index, self.split) == (*warned, "train"):
                named.append(asked[-1] + 1)  # as jax.distributed agrees
            return super().__next__()

    def reached(number):
        asked.append(number)
        return number in named

    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", reached)
    assert run(config_of(STAGES), tmp_path, open_batches=Warned) == signal.SIGTERM
    found = {folder.name: latest_step(folder) for folder in (tmp_path / "stages").iterdir()}
    assert found == stopped and asked == list(range(len(asked)))
    monkeypatch.undo()
    assert run(config_of(STAGES), tmp_path) is None
    assert rows_of(tmp_path) == rows_of(uninterrupted)


def test_a_loss_that_is_no_number_stops_before_it_is_saved(tmp_path, run, config_of):
    with pytest.raises(UserError, match="config.stages.a.learning_rate: 0.01 made the loss nan at step 1"):
        run(config_of({"a": {"steps": 1}}, model={"fail": True}), tmp_path)
    assert not list((tmp_path / "stages" / "0_a").iterdir())


def test_tables_that_init_lacks_are_random(tmp_path, run, config_of, saved):
    run(config_of({"a": {}}, model={"vision_vocab_size": 0}), tmp_path / "text")
    text = load_params(tmp_path / "text")[2]
    assert "vte" not in text
    stages = {"v": {"steps": 1, "learning_rate": 1e-30, "mesh": {"fsdp": 2, "tensor": 2, "seq": 2}}}
    run(config_of(stages, experiment="vision", init=str(tmp_path / "text")), tmp_path / "vision")
    vision = load_params(tmp_path / "vision")[2]
    for name in text:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), vision[name], text[name])
    assert vision["vte"]["embedding"].shape == (20, 16) and 0.5 < np.std(vision["vte"]["embedding"]) < 1.5
    with pytest.raises(
        UserError, match="vision has vision_head/kernel, this model does not; change config.model"
    ):
        back = config_of({"a": {}}, init=str(tmp_path / "vision"), model={"vision_vocab_size": 0})
        run(back, tmp_path / "back")
    with pytest.raises(
        UserError, match=r"has lm_head/kernel of shape \(16, 40\), this model one of \(8, 40\)"
    ):
        run(config_of({"a": {}}, init=str(tmp_path / "vision"), model={"width": 8}), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_relative_folders(tmp_path, monkeypatch, run, config_of):
    monkeypatch.chdir(tmp_path)
    assert run(config_of({"a": {"steps": 1}, "b": {"steps": 1}}), "runs/w") is None
    assert run(config_of({"c": {"steps": 1}}, experiment="other", init="runs/w"), "runs/x") is None
    assert load_params("runs/x")[1]["name"] == "c"
    assert str(stage_folder("gs://bucket/w", 2, "a")) == "gs://bucket/w/stages/2_a"


def test_images_go_through_the_same_loop(tmp_path, run, config_of):
    stage = dict(context_length=0, batch_tokens=0, batch_size=16, mixture={}, eval_every=2, steps=2)
    run(config_of({"frames": stage}), tmp_path)
    train, last, evaluation = read_rows(tmp_path / "metrics.jsonl")
    assert (train["images"], last["images"], evaluation["kind"]) == (16, 32, "eval")
    assert train["images_per_second"] > 0
