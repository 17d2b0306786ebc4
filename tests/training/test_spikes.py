import signal

import pytest

from lwm.errors import UserError
from lwm.training.checkpoints import latest_step
from lwm.training.experiment import Guards, build_experiment
from lwm.training.interrupts import Interrupts
from lwm.training.recovery import saved_steps
from lwm.training.spikes import Rewinds, Spike, add_loss, rewinds_until
from lwm.training.status import status

LIMITS = Guards(spike=2.0, spike_window=3)


@pytest.fixture(scope="module")
def spiked(stream_class):
    """`spiked(*indices, without=())`: batches of which these have a fifty times larger loss."""

    def make(*indices, without=()):
        class Spiked(stream_class):
            def __next__(self):
                while self.split == "train" and self.index in without:
                    self.index += 1
                index, batch = self.index, super().__next__()
                if self.split == "train" and index in indices:
                    batch["weights"] = batch["weights"] * 50
                return batch

        return Spiked

    return make


@pytest.fixture(scope="module")
def config(config_of):
    """Batch i is that of step i + 1: the spike of batch 5 makes the run go back to step 4."""
    guards = {"spike": 5.0, "spike_window": 3, "rewinds": 2}
    stage = dict(steps=9, checkpoint_every=2, eval_every=4)
    return config_of({"a": stage}, guards=guards, checkpoint={"keep": 1}, log_every=2)


def test_a_loss_is_held_against_the_median_of_those_before():
    losses = [9.0]
    for step, loss in enumerate([1.0, 2.0, 3.0, 4.0], start=2):
        losses = add_loss(losses, step, loss, LIMITS)
    assert losses == [2.0, 3.0, 4.0]
    assert add_loss(losses, 6, 6.0, LIMITS) == [3.0, 4.0, 6.0], "twice the median is not more than that"
    with pytest.raises(Spike, match="6.1 at step 6, 2.03 times the median") as caught:
        add_loss(losses, 6, 6.1, LIMITS)
    assert (caught.value.step, caught.value.loss, caught.value.median) == (6, 6.1, 3.0)
    assert add_loss([3.0, 4.0], 3, 99.0, LIMITS) == [3.0, 4.0, 99.0], "too few to tell"
    assert add_loss([0.0, -1.0, -2.0], 4, 5.0, LIMITS), "of losses below 0 there is no multiple"
    assert add_loss(losses, 6, 99.0, Guards()) == []


def test_how_often_a_stage_went_back_is_told_from_the_rows():
    rows = [
        {"kind": "rewind", "stage": "a", "step": step, "spike": spike}
        for step, spike in [(4, 6), (4, 9), (8, 9)]
    ]
    rows += [
        {"kind": "rewind", "stage": "b", "step": 4, "spike": 9},
        {"kind": "train", "stage": "a", "step": 4},
    ]
    assert [rewinds_until(rows, "a", step) for step in (2, 4, 6, 8)] == [
        Rewinds(), Rewinds(2, 7), Rewinds(2, 0), Rewinds(3, 1),
    ]  # fmt: skip


def test_what_is_no_factor_is_refused():
    fields = {"experiment": "e", "model": {}, "stages": {"a": dict(steps=1, learning_rate=1.0, mesh={})}}
    with pytest.raises(UserError, match=r"config.guards.spike: 0.5 is no factor above 1; use for example 2"):
        build_experiment(fields | {"guards": {"spike": 0.5, "rewinds": 2}})


@pytest.fixture(scope="module")
def once(tmp_path_factory, run, config, spiked):
    folder = tmp_path_factory.mktemp("once")
    assert run(config, folder, open_batches=spiked(5)) is None
    return folder


def test_a_run_goes_back_and_passes_the_batches_over(
    tmp_path, once, run, config, spiked, saved, rows_of, assert_same
):
    rows = rows_of(once)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("train", 1), ("train", 2), ("train", 4), ("eval", 4), ("rewind", 4),
        ("train", 6), ("train", 8), ("eval", 8), ("train", 9), ("eval", 9),
    ]  # fmt: skip
    back = rows[4]
    assert back["spike"] == 6 and back["loss"] > 5 * back["median"] and back["tokens"] == 4 * 128
    assert [row["rewinds"] for row in rows if row["kind"] != "eval"] == [0, 0, 0, 1, 1, 1, 1]
    assert "went back 1 times from a spike, the last time from step 6 of a to 4" in status(once)
    # The run is the one that was never shown the two batches.
    calm = tmp_path / "calm"
    assert run(config | {"guards": {}}, calm, open_batches=spiked(without=(4, 5))) is None
    (arrays, position), (expected, end) = (saved(folder / "stages/0_a") for folder in (once, calm))
    assert_same(arrays, expected)
    assert position.pop("losses") and position == end == {"index": 11}


def test_a_run_that_was_cut_goes_back_bit_for_bit(
    tmp_path, once, run, config, spiked, saved, rows_of, assert_same
):
    cut = tmp_path / "cut"
    for index in (5, 7, 10):  # on the way to the spike, after it before a checkpoint, and after one
        assert run(config, cut, ("a", index), open_batches=spiked(5)) == "cut"
    assert run(config, cut, open_batches=spiked(5)) is None
    (arrays, position), (expected, end) = (saved(folder / "stages/0_a") for folder in (cut, once))
    assert_same(arrays, expected)
    assert position == end and rows_of(cut) == rows_of(once)


def test_what_a_signal_saved_is_not_gone_back_to(
    tmp_path, once, run, config, spiked, saved, rows_of, assert_same, monkeypatch
):
    def stop_here(self):
        self._steps += 1
        self.received = signal.SIGTERM if self._steps == 5 else None
        return self._steps == 5

    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "stop_here", stop_here)
        assert run(config, tmp_path, open_batches=spiked(5)) == signal.SIGTERM
    assert saved_steps(tmp_path / "stages/0_a") == [4, 5], "more than the one to keep"
    assert run(config, tmp_path, open_batches=spiked(5)) is None
    (arrays, position), (expected, end) = (saved(folder / "stages/0_a") for folder in (tmp_path, once))
    assert_same(arrays, expected)
    assert position == end and rows_of(tmp_path) == rows_of(once)


def test_too_many_spikes_end_the_run_and_what_is_saved_stays(tmp_path, run, config, spiked, rows_of, capsys):
    stages = {"a": config["stages"]["a"] | {"checkpoint_every": 4}}
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"made the loss .* at step 7, .* after 2 rewinds; lower"
        ) as error:
            run(config | {"stages": stages}, tmp_path, open_batches=spiked(3, 9, 12))
        assert "\n" not in str(error.value)
        assert latest_step(tmp_path / "stages/0_a") == 4
    # Before the first checkpoint it begins again.
    assert [row["step"] for row in rows_of(tmp_path) if row["kind"] == "rewind"] == [0, 4]
    said = [line for line in capsys.readouterr().out.splitlines() if "back to step" in line]
    assert [line.rpartition(" · back to ")[2] for line in said] == [
        "step 0, 4 batches passed over · rewind 1 of 2",
        "step 4, 2 batches passed over · rewind 2 of 2",
    ]


@pytest.mark.slow
def test_two_hosts_go_back_as_one_process_does(tmp_path, run, run_pod, config_of, rows_of):
    """A factor that is almost 1 makes a spike of what is none."""
    guards = {"spike": 1.05, "spike_window": 3, "rewinds": 9}
    config = config_of({"a": dict(steps=8, checkpoint_every=2)}, guards=guards)
    assert run(config, tmp_path / "one") is None
    run_pod(2, 4, tmp_path / "two", config)
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    places = [[(row["kind"], row["step"], row.get("spike")) for row in rows] for rows in (one, two)]
    assert places[0] == places[1] and {"rewind", "train"} == {kind for kind, _, _ in places[0]}
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], rel=1e-5)
