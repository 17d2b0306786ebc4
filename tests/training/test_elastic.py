"""One run on 1 x 8, then 2 x 4, then 4 x 2 processes and devices, and on three meshes, goes as on one."""

import json

import numpy as np
import pytest

from lwm.training.checkpoints import latest_step

STAGE = dict(context_length=16, batch_tokens=128, steps=30, learning_rate=0.01, mixture={"text": 1.0})
STAGE |= dict(checkpoint_every=6, eval_every=10, eval_batches=2)
MESHES = {"data": 8}, {"data": 2, "fsdp": 4}, {"fsdp": 2, "tensor": 2, "seq": 2}


def config(mesh):
    # Without noise, which this model draws in the order in which a ring lays a row out.
    model = {"noise": 0.0, "witness": True}
    return {"experiment": "elastic", "model": model, "log_every": 1, "stages": {"a": STAGE | {"mesh": mesh}}}


@pytest.mark.slow
def test_hosts_and_meshes_change_within_a_stage(tmp_path, run, start_pod, run_pod, rows_of):
    fixed, elastic = tmp_path / "fixed", tmp_path / "elastic"
    run(config(MESHES[0]), fixed)
    assert run(config(MESHES[0]), elastic, ("a", 10)) == "cut"
    assert latest_step(elastic / "stages/0_a") == 6
    process = start_pod(2, 4, elastic, config(MESHES[1]), CUT="22")
    shown, _ = process.communicate(timeout=900)
    # Batches are read two steps ahead; the save after step 18 waits for that after step 12.
    assert process.returncode == 3 and latest_step(elastic / "stages/0_a") in (12, 18), shown
    run_pod(4, 2, elastic, config(MESHES[2]))
    starts = [json.loads(path.read_text()) for path in sorted((elastic / "starts").iterdir())]
    assert [(start["processes"], len(start["devices"])) for start in starts] == [(1, 8), (2, 8), (4, 8)]
    meshes = [start["config"]["stages"]["a"]["mesh"] for start in starts]
    assert all(mesh.items() <= found.items() for mesh, found in zip(MESHES, meshes, strict=True))
    rows, expected = rows_of(elastic), rows_of(fixed)
    for name in ("kind", "step", "tokens", "digest"):
        assert [row[name] for row in rows] == [row[name] for row in expected]
    losses, wanted = ([row["loss"] for row in found] for found in (rows, expected))
    print("largest relative difference", np.max(np.abs(np.divide(losses, wanted) - 1)))
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)
