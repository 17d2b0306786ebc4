"""Any number of hosts, whose processes find each other as on a pod, train as one, and go on for another."""

import signal

import numpy as np
import pytest

from lwm.training.checkpoints import latest_step
from lwm.training.metrics import read_rows
from lwm.training.recovery import newest_whole

STAGE = dict(context_length=16, batch_tokens=128, learning_rate=0.01, mixture={"text": 1.0}, eval_every=10)
CONFIG = {
    "experiment": "hosts",
    "model": {"witness": True},
    "log_every": 1,
    "stages": {
        # Rows on either host; then one ring around both, so that both make the same rows.
        "rows": STAGE | dict(steps=40, checkpoint_every=20, mesh={"data": 2, "fsdp": 4}),
        "ring": STAGE | dict(steps=3, mesh={"seq": 8}),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_are_one(hosts, tmp_path, run, run_pod):
    """The same batches, by a digest of their tokens, and losses; the same for a run of one that goes on."""
    run(CONFIG, tmp_path / "one")
    first = run_pod(hosts, 8 // hosts, tmp_path / "many", CONFIG)
    assert "step 40/40" in first and "step" not in (tmp_path / f"many_logs/host_{hosts - 1}.log").read_text()
    assert run(CONFIG, tmp_path / "mixed", ("rows", 25)) == "cut"
    run_pod(hosts, 8 // hosts, tmp_path / "mixed", CONFIG)
    rows = {name: read_rows(tmp_path / name / "metrics.jsonl") for name in ("one", "many", "mixed")}
    for name in ("many", "mixed"):
        for exact in ("kind", "step", "tokens", "digest"):
            assert [row[exact] for row in rows[name]] == [row[exact] for row in rows["one"]]
        for own, expected in zip(rows[name], rows["one"], strict=True):
            for metric in ("loss", "text_nll"):
                np.testing.assert_allclose(own[metric], expected[metric], rtol=1e-5)


@pytest.mark.slow
def test_hosts_that_are_warned_save_together_and_go_on(tmp_path, run, start_pod, run_pod):
    stage = STAGE | dict(steps=400, eval_every=0, mesh={"data": 2, "fsdp": 4})
    config = CONFIG | {"stages": {"rows": stage}}
    process = start_pod(2, 4, tmp_path / "warned", config)
    for line in process.stdout:
        if "step 5/400" in line:
            process.send_signal(signal.SIGTERM)
            break
    shown, _ = process.communicate(timeout=300)
    step = latest_step(tmp_path / "warned/stages/0_rows")
    assert process.returncode == 128 + signal.SIGTERM and 5 <= step < 400, shown
    assert f"stopped and saved at step {step} of 400" in shown
    run_pod(2, 4, tmp_path / "warned", config)
    run(config, tmp_path / "one")
    rows, expected = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("warned", "one"))
    assert [row["step"] for row in rows] == list(range(1, 401))
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-4)


@pytest.mark.slow
def test_hosts_pass_over_a_damaged_checkpoint_together(tmp_path, run, run_pod):
    stage = STAGE | dict(steps=6, checkpoint_every=2, eval_every=0, mesh={"data": 2, "fsdp": 4})
    config, folder = CONFIG | {"stages": {"rows": stage}}, tmp_path / "w/stages/0_rows"
    run(config, tmp_path / "one")
    assert run(config, tmp_path / "w", ("rows", 5)) == "cut" and newest_whole(folder) == (4, [])
    (folder / "4/rest/_METADATA").write_text("{}")
    first = run_pod(2, 4, tmp_path / "w", config)
    last = (tmp_path / "w_logs/host_1.log").read_text()
    assert "0_rows/4 is damaged: rest/_METADATA has 2 bytes" in first and "damaged" not in last
    assert (folder / "4.damaged").exists() and newest_whole(folder) == (6, []), "what hosts save is sealed"
    rows, expected = (read_rows(tmp_path / name / "metrics.jsonl") for name in ("w", "one"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-4)
