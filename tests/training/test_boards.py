import json
import sys

import pytest

from lwm.errors import UserError
from lwm.training.boards import Boards, check_boards
from lwm.training.experiment import build_experiment
from lwm.training.metrics import MetricsLog

STAND_INS = {
    "tensorboard/__init__.py": "",
    "tensorboard/summary.py": """
import json, pathlib
class Writer:
    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "seen"
        self.path.parent.mkdir(exist_ok=True)
    def add_scalar(self, name, value, step):
        with self.path.open("a") as file:
            file.write(json.dumps([name, step, value]) + "\\n")
    flush = close = lambda self: None
""",
    "wandb.py": """
import json, pathlib
class Error(Exception):
    pass
def init(**settings):
    if "refused" in settings["dir"]:
        raise Error("no api_key\\nconfigured")
    return Run(settings)
class Run:
    def __init__(self, settings):
        self.path = pathlib.Path(settings["dir"]) / settings["id"]
        assert settings["resume"] == "allow" and settings["config"]["experiment"] == "miniature"
    def define_metric(self, name, step_metric=""):
        pass
    def log(self, values):
        with self.path.open("a") as file:
            for name in values.keys() - {"step"}:
                file.write(json.dumps([name, values["step"], values[name]]) + "\\n")
    finish = lambda self: None
""",
}


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Packages that write [name, step, value] where the real ones would keep it."""
    for name, text in STAND_INS.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in ("tensorboard", "tensorboard.summary", "wandb"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    for name in ("tensorboard", "tensorboard.summary", "wandb"):
        sys.modules.pop(name, None)


@pytest.fixture
def experiment(config_of):
    return build_experiment(config_of({"a": {"steps": 4}, "b": {"steps": 3}}))


def row(kind, stage, step, **values):
    return {"kind": kind, "stage": stage, "step": step, "loss": step + 0.5, "not_finite": ["x"]} | values


def seen(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_row_is_sent_once_at_its_step_through_all_stages(tmp_path, experiment, stand_ins):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append(row("train", "a", 1))  # before anybody asked for boards
    log.boards = Boards(["tensorboard"], tmp_path, experiment)
    for step in (2, 4):
        log.append(row("train", "a", step))
    log.append(row("eval", "a", 4))
    log.close()
    # From a checkpoint of step 2: step 4 is there, and W&B, which is new, lacks all that is.
    log.rewind([], "a", 2)
    log.boards = Boards(["tensorboard", "wandb"], tmp_path, experiment)
    for again in [row("train", "a", 4), row("eval", "a", 4), row("train", "b", 1), row("train", "gone", 9)]:
        log.append(again)
    log.close()
    shown = [["train/loss", 1, 1.5], ["train/loss", 2, 2.5], ["train/loss", 4, 4.5]]
    shown += [["eval/loss", 4, 4.5], ["train/loss", 5, 1.5]]
    assert seen(tmp_path / "tensorboard" / "seen") == shown
    mark = json.loads((tmp_path / "boards" / "wandb.json").read_text())
    assert seen(tmp_path / mark["id"]) == shown and mark["sent"] == {"train": 5, "eval": 4}
    Boards(["wandb"], tmp_path, experiment).close()
    assert seen(tmp_path / mark["id"]) == shown, "the same id, and nothing new"


def test_a_training_that_was_cut_shows_every_row_once(tmp_path, run, config_of, rows_of, stand_ins):
    config, boards = config_of({"a": dict(steps=5, checkpoint_every=2)}), {"boards": ["tensorboard"]}
    assert run(config, tmp_path / "run", ("a", 3), **boards) == "cut"
    assert run(config, tmp_path / "run", **boards) is None
    shown = [
        (step, value) for name, step, value in seen(tmp_path / "run/tensorboard/seen") if name == "train/loss"
    ]
    assert shown == [(row["step"], row["loss"]) for row in rows_of(tmp_path / "run")]


def test_a_board_that_is_not_there_is_one_line_before_anything_is_written(
    tmp_path, run, config_of, monkeypatch
):
    with pytest.raises(UserError, match="boards: 'tensorbord' is not known; did you mean 'tensorboard'"):
        check_boards(["tensorbord"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"boards: wandb is not installed; call pip install -e '.\[wandb\]'"):
        run(config_of({"a": {}}), tmp_path / "w", boards=["wandb"])
    assert not (tmp_path / "w").exists()


def test_what_wandb_refuses_is_one_line(tmp_path, experiment, stand_ins):
    (tmp_path / "refused").mkdir()
    with pytest.raises(UserError, match="boards: wandb: no api_key configured; call `wandb login`, or set"):
        Boards(["wandb"], tmp_path / "refused", experiment)


def test_a_real_tensorboard_reads_what_was_sent(tmp_path, experiment):
    pytest.importorskip("tensorboard.summary")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    boards = Boards(["tensorboard"], tmp_path, experiment)
    for own in (row("train", "a", 3), row("train", "b", 2), row("train", "b", 2)):
        boards.send(own)
    boards.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    events = [
        (event.step, value) for event in EventFileLoader(str(path)).Load() for value in event.summary.value
    ]
    assert [(step, value.tag, value.tensor.float_val[0]) for step, value in events] == [
        (3, "train/loss", 3.5), (6, "train/loss", 2.5),
    ]  # fmt: skip


def test_a_real_wandb_keeps_a_run_offline(tmp_path, experiment, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for step in (3, 4):
        boards = Boards(["wandb"], tmp_path, experiment)
        boards.send(row("train", "a", step))
        boards.close()
    own = json.loads((tmp_path / "boards" / "wandb.json").read_text())["id"]
    assert [path.name for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))] == 2 * [
        f"run-{own}.wandb"
    ]
