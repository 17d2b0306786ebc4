"""The benchmarks of cross-attention in miniature: curves agree, rows are made once, products are counted."""

import csv
import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return load("xattn_curves")


@pytest.mark.slow
def test_curves_agree_with_the_dense_one(curves):
    """Three steps on two devices, a ring of keys and recomputation; the table has two hundred."""
    expected = curves.dense_curve("debug", 3)
    asked = {"size": "debug", "steps": 3, "devices": 2, "way": "rotate_keys", "recompute": True}
    row = curves.compare(expected, asked)
    assert len(set(expected)) == 3 and float(row["largest_difference"]) <= 1e-4
    assert abs(float(row["first_loss"]) - np.log(3 + curves.COLOURS)) < 0.2


def test_rows_of_curves_that_are_there_are_not_made_again(curves, monkeypatch, tmp_path):
    asked = []

    def compare(expected, row):
        asked.append((row["devices"], row["way"], row["recompute"]))
        return row | {"last_loss": "1", "largest_difference": "0"}

    monkeypatch.setattr(curves, "compare", compare)
    monkeypatch.setattr(curves, "start", lambda devices: None)
    monkeypatch.setattr(curves, "dense_curve", lambda size, steps: [1.0])
    for devices in ("1", "1,2"):
        flags = [f"--devices={devices}", "--ways=rotate_keys", f"--output={tmp_path / 'c.csv'}"]
        monkeypatch.setattr(sys, "argv", ["xattn_curves.py", *flags])
        curves.main()
    assert asked == [(n, "rotate_keys", recompute) for n in (1, 2) for recompute in (True, False)]
    assert len(list(csv.DictReader((tmp_path / "c.csv").open()))) == 4
    monkeypatch.setattr(sys, "argv", ["xattn_curves.py", "--ways=teleport"])
    with pytest.raises(SystemExit, match="^--ways: 'teleport'"):
        curves.main()


def test_matrix_products_are_counted_as_often_as_they_run():
    a = jnp.ones((3, 5))

    def fn(a):
        out = jax.lax.scan(lambda carry, _: (a @ (a.T @ carry), None), jnp.ones((3, 2)), length=4)[0]
        return jax.lax.cond(out[0, 0] > 0, lambda x: a.T @ x, lambda x: jnp.zeros((5, 2)), out)

    counted = load("xattn_memory").products(jax.make_jaxpr(fn)(a).jaxpr)
    assert counted == 4 * 2 * (2 * 3 * 5 * 2) + 2 * 3 * 5 * 2


@pytest.mark.slow
def test_recomputation_saves_keys_and_values(curves):
    row = load("xattn_memory").saving("kept", layers=2, frames=128, devices=1, key_block=0)
    assert 0.9 < row["ratio"] < 1.1
