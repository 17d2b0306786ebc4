"""The commands around the data of MultiModel, on tiny packages."""

import csv
import sys

import pytest

from experiments import multimodel_baselines, multimodel_data


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(module, **flags)` runs a command and returns what it printed."""

    def run(module, **flags):
        words = [f"--{name}={value}" for name, value in flags.items() if value is not True]
        words += [f"--{name}" for name, value in flags.items() if value is True]
        monkeypatch.setattr(sys, "argv", ["command", *words])
        module.main()
        return capsys.readouterr().out

    return run


def test_the_data_are_made_and_counted(call, options, packages, tmp_path):
    lines = call(multimodel_data, **options(packages, tmp_path / "data")).splitlines()
    assert lines[0].split()[:4] == ["task", "kind", "train", "heldout"]
    assert len(lines) == 11 and lines[-2] == "0 damaged files"
    speech = next(line for line in lines if line.startswith("speech"))
    assert "0.9 / 1.3 / 1.3" in speech


def test_a_mistake_is_one_line(call, options, packages, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        call(multimodel_data, **options(packages, tmp_path / "data", heldout=2))
    assert error.value.code == 2
    assert (
        capsys.readouterr().err
        == "error: heldout: 2.0 is not a share between 0 and 1; give for example 0.15\n"
    )
    with pytest.raises(SystemExit):
        call(multimodel_baselines, data=tmp_path / "none", output=tmp_path / "rows.csv")
    assert capsys.readouterr().err.count("\n") == 1


def test_every_task_has_something_to_beat(call, tasks_dir, tmp_path):
    pytest.importorskip("sacrebleu")
    for _ in range(2):
        call(multimodel_baselines, data=tasks_dir, output=tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        rows = {(row["task"], row["score"]): float(row["value"]) for row in csv.DictReader(file)}
    assert 0 <= rows["stamp_class", "majority_accuracy"] <= 1
    for task in ("stamp_caption", "speech", "parsing", "english_french"):
        assert rows[task, "empty_error_rate"] == 1 and rows[task, "unigram_nats"] > 1
    assert rows["english_french", "copy_chrf"] > 50 > rows["english_spanish", "copy_chrf"]
    assert ("speech", "copy_chrf") not in rows
    assert len(rows) == 2 + 2 * 6 + 5 * 10
