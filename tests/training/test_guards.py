import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.errors import UserError
from lwm.parallel.sharding import batch_shardings
from lwm.training.checkpoints import latest_step
from lwm.training.guards import Skips, diverged, local_part, skips_until, too_many
from lwm.training.metrics import read_rows
from lwm.training.optimizers import make_optimizer
from lwm.training.stages import Axes, Stage
from lwm.training.state import init_state
from lwm.training.step import make_train_step

STAGE = Stage("a", steps=9, learning_rate=0.01, mesh=Axes())


@pytest.fixture
def poisoned(stream_class):
    """`poisoned(*indices)`: batches of which these have a weight that is no number."""

    def make(*indices):
        class Poisoned(stream_class):
            def __next__(self):
                index, batch = self.index, super().__next__()
                if self.split == "train" and index in indices:
                    batch["weights"][-1, 0] = np.nan
                return batch

        return Poisoned

    return make


def test_a_step_that_is_not_finite_changes_no_weight_on_a_mesh_in_microbatches(bag, mesh_of, token_batch):
    mesh, model = mesh_of(data=2, fsdp=2, seq=2), bag(refresh_every=2)
    optimizer = make_optimizer(learning_rate=0.01, steps=8, warmup_steps=2)
    good = token_batch(8, 16, ring=2)
    bad = good | {"weights": np.where(np.arange(8)[:, None] == 5, np.inf, good["weights"])}
    with jax.set_mesh(mesh):
        good, bad = (jax.device_put(batch, batch_shardings(batch, mesh)) for batch in (good, bad))
        state = init_state(model, optimizer, jax.random.key(5), good, mesh)
        step = make_train_step(model, optimizer, accumulate=2)
        states, skipped = [state], []
        for batch in (good, bad, good, good):
            state, metrics = step(jax.tree.map(jnp.copy, state), batch)
            states.append(state)
            skipped.append(float(metrics["skipped"]))
    assert skipped == [0, 1, 0, 0]
    before, after = states[1:3]
    assert before.step == 1 and after.step == 2
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    shardings = [jax.tree.map(lambda leaf: leaf.sharding, own) for own in (after.params, states[4].params)]
    assert shardings[0] == shardings[1] == jax.tree.map(lambda leaf: leaf.sharding, before.params)
    # Of the moments and the counts only that of the schedule has gone on; and the refresh that was due is not
    # made up for with what is no number.
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), after.opt_state, before.opt_state)
    assert [
        jax.tree_util.keystr(path) for path, own in jax.tree_util.tree_leaves_with_path(changed) if own
    ] == ["[1][2].count"]
    assert not np.any(np.asarray(after.params["norm"]["scale"]) == 7.0)
    assert np.all(np.asarray(states[4].params["norm"]["scale"]) == 7.0)
    assert not np.array_equal(states[3].params["wte"]["embedding"], after.params["wte"]["embedding"])


def test_a_stage_with_skipped_steps_goes_on_bit_for_bit(
    tmp_path, run, config_of, poisoned, saved, rows_of, assert_same
):
    config = config_of({"a": dict(steps=7, checkpoint_every=2)}, guards={"skips_in_row": 2}, log_every=3)
    batches = {"open_batches": poisoned(2, 4, 5)}
    assert run(config, tmp_path / "once", **batches) is None
    assert run(config, tmp_path / "cut", ("a", 5), **batches) == "cut"
    assert run(config, tmp_path / "cut", **batches) is None
    once, cut = (saved(tmp_path / name / "stages/0_a") for name in ("once", "cut"))
    assert_same(once[0], cut[0])
    rows = rows_of(tmp_path / "once")
    assert rows == rows_of(tmp_path / "cut")
    assert [(row["kind"], row["step"], row["skipped"]) for row in rows] == [
        ("train", 1, 0), ("skip", 3, 1), ("skip", 5, 2), ("skip", 6, 3), ("train", 7, 3),
    ]  # fmt: skip
    assert "loss" in rows[1]["not_finite"] and "loss" not in rows[1] and math.isfinite(rows[4]["loss"])
    folders = sorted(path.name for path in (tmp_path / "cut/offending").iterdir())
    assert folders == ["a_3", "a_5", "a_6"]
    with np.load(tmp_path / "cut/offending/a_5/host_0.npz", allow_pickle=False) as kept:
        assert kept["tokens"].shape == (8, 16) and np.isnan(kept["weights"]).sum() == 1
    assert json.loads((tmp_path / "cut/offending/a_5/metrics.json").read_text())["loss"] == "nan"
    timed = read_rows(tmp_path / "once/metrics.jsonl")[-1]
    spent = {name for name in timed if name.startswith("seconds_")}
    assert spent == {"seconds_waiting", "seconds_in_steps", "seconds_saving"}


def test_too_many_in_a_row_end_the_run_also_across_a_restart(tmp_path, run, config_of, poisoned):
    config = config_of({"a": dict(steps=9, checkpoint_every=4)}, guards={"skips_in_row": 2})
    batches = {"open_batches": poisoned(0, 2, 3, 4, 5)}
    assert run(config, tmp_path, ("a", 4), **batches) == "cut"
    assert latest_step(tmp_path / "stages/0_a") == 4
    for _ in range(2):
        with pytest.raises(UserError, match="made the loss nan at step 5, the last of 3 in a row"):
            run(config, tmp_path, **batches)
    assert latest_step(tmp_path / "stages/0_a") == 4
    assert sorted(path.name for path in (tmp_path / "offending").iterdir()) == ["a_1", "a_3", "a_4", "a_5"]
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_what_is_in_a_row_is_told_from_the_rows():
    kinds = ["skip", "train", "skip", "skip", "train"]
    rows = [{"kind": kind, "stage": "a", "step": step} for step, kind in enumerate(kinds, 1)]
    rows += [{"kind": "skip", "stage": "b", "step": 4}]
    told = [skips_until(rows, "a", step) for step in (1, 2, 3, 4, 5)]
    assert told == [Skips(1, 1), Skips(1, 0), Skips(2, 1), Skips(3, 2), Skips(3, 0)]
    assert told[1].after(True) == told[2] and told[3].after(False) == told[4]


def test_when_and_how_a_run_ends():
    assert too_many(Skips(1, 1), STAGE, 0) and not too_many(Skips(9, 3), STAGE, 3)
    assert too_many(Skips(9, 9), STAGE, 100), "no step of the stage did anything"
    line = str(diverged(STAGE, 7, {"loss": 1.5, "gradient_norm": math.inf}, Skips(3, 2)))
    assert "learning_rate: 0.01 made the gradient_norm inf at step 7, the last of 2 in a row;" in line


@pytest.mark.parametrize("axes", [{"data": 2, "seq": 4}, {"tensor": 8}, {"fsdp": 4, "tensor": 2}])
def test_the_part_of_a_host_is_each_piece_once(axes, mesh_of, token_batch):
    batch = token_batch(8, 16)
    placed = jax.device_put(batch, batch_shardings(batch, mesh_of(**axes)))
    for name, array in batch.items():
        np.testing.assert_array_equal(local_part(placed[name]), array)


def test_a_part_that_begins_further_on_is_put_together(mesh_of, token_batch):
    tokens = token_batch(8, 16)["tokens"]
    array = jax.device_put({"tokens": tokens}, batch_shardings({"tokens": tokens}, mesh_of(data=4, seq=2)))

    class Half:
        """What the second of two hosts sees."""

        shape, dtype = tokens.shape, tokens.dtype
        addressable_shards = array["tokens"].addressable_shards[4:][::-1]

    np.testing.assert_array_equal(local_part(Half()), tokens[4:])
