"""The published re-fit as anyone would run it, on a stand-in for the CSV that we do not pass on."""

import sys

import numpy as np
import pytest

from experiments import chinchilla_refit
from lwm.errors import UserError
from lwm.scaling import laws
from lwm.scaling.runs_table import make_runs


@pytest.fixture
def table(tmp_path):
    """Runs of the published law with its columns among others, and five that went wrong."""
    rng = np.random.default_rng(0)
    sizes, flop = rng.uniform(np.log(5e7), np.log(1e10), 120), rng.uniform(np.log(5e18), np.log(3e21), 120)
    runs = make_runs(np.exp(sizes), np.exp(flop - sizes) / 6)
    law = laws.chinchilla()
    loss = law.predict(law.theta(**chinchilla_refit.PUBLISHED), runs)
    loss *= np.exp(1e-5 * rng.standard_normal(120))
    loss[10:15] = 9 + np.arange(5)
    path = tmp_path / "runs.csv"
    columns = np.stack([np.arange(120), np.exp(sizes), np.exp(flop), loss], 1)
    lines = [",".join(map(repr, row)) for row in columns.tolist()]
    path.write_text("\n".join(["x,Model Size,Training FLOP,loss", *lines]))
    return path


def test_fit_is_printed_beside_the_published_one(table, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["chinchilla_refit", f"--csv={table}", "--draws=10"])
    chinchilla_refit.main()
    out = capsys.readouterr().out
    assert out.startswith("115 runs; fitted in") and "; all within 0.001" in out
    assert "| Chinchilla | 5 | 0.0 |" in out and "| hypothesis, one slope, loss | 2 |" in out


def test_largest_losses_are_dropped_and_tokens_are_flop_over_six_sizes(table):
    runs = chinchilla_refit.read(table)
    assert runs.size == 115 and runs.loss.max() < 9
    assert chinchilla_refit.read(table, 0).size == 120
    number, size, flop, loss = map(float, table.read_text().splitlines()[1].split(","))
    assert (runs.parameters[0], runs.loss[0]) == (size, loss) and number == 0
    assert runs.tokens[0, 0] == pytest.approx(flop / size / 6)


def test_wrong_calls_are_one_line(table, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="--drop: 120; give 0 to 119"):
        chinchilla_refit.read(table, 120)
    other = tmp_path / "other.csv"
    other.write_text("Model Size,Training FLOP,loss\n0,1,2\n")
    with pytest.raises(UserError, match="a 'Model Size' of 0; drop the row"):
        chinchilla_refit.read(other)
    other.write_text("size,loss\n1,2\n")
    monkeypatch.setattr(sys, "argv", ["chinchilla_refit", f"--csv={other}"])
    with pytest.raises(SystemExit) as ended:
        chinchilla_refit.main()
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.count("\n") == 1
    assert told.startswith(f"error: {other}: no column 'Model Size', 'Training FLOP';")
