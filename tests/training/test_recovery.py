import errno
import json
import os
import shutil

import pytest

from lwm.errors import UserError
from lwm.training import workdir as workdirs
from lwm.training.checkpoints import load_params
from lwm.training.recovery import Damaged, newest_whole, saved_steps

STAGES = {
    "a": {"steps": 2, "checkpoint_every": 1, "mesh": {"data": 8}},
    "b": {"steps": 2, "checkpoint_every": 1, "mesh": {"fsdp": 8}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run, config_of):
    """A finished run of two stages, with two checkpoints each."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(config_of(STAGES), folder) is None
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of it to break, and its stages' folders."""
    shutil.copytree(whole, tmp_path / "w")
    return tmp_path / "w", tmp_path / "w/stages/0_a", tmp_path / "w/stages/1_b"


def shorten(checkpoint, part="params"):
    path = checkpoint / part / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_checkpoint_is_sealed_as_it_appears(whole):
    for stage in ("0_a", "1_b"):
        folder = whole / "stages" / stage
        assert saved_steps(folder) == [1, 2] and newest_whole(folder) == (2, [])
        assert all((folder / str(step) / "seal.json").exists() for step in (1, 2))


def test_training_goes_on_from_the_one_before(
    copy, whole, run, config_of, saved, rows_of, assert_same, capsys
):
    workdir, _, b = copy
    shorten(b / "2")
    (b / "2.damaged").mkdir()
    broken = {path.name: content for path, content in contents(b / "2").items()}
    assert run(config_of(STAGES), workdir, resume="must") is None
    told = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert len(told) == 1 and "1_b/2 is damaged: params/_METADATA has " in told[0]
    assert "kept as 2.damaged.2, the newest whole one is taken instead" in told[0]
    assert {path.name: content for path, content in contents(b / "2.damaged.2").items()} == broken
    (found, end), (expected, position) = (saved(folder / "stages/1_b") for folder in (workdir, whole))
    assert_same(found, expected)
    assert end == position and rows_of(workdir) == rows_of(whole)
    assert saved_steps(b) == [1, 2] and newest_whole(b) == (2, [])


@pytest.mark.parametrize("step, newest", [(2, 1), (1, 2)])
def test_what_orbax_would_stumble_over_is_damaged(copy, step, newest):
    b = copy[2]
    (b / str(step) / "_CHECKPOINT_METADATA").write_text("[]")
    damaged = Damaged(str(b / str(step)), "_CHECKPOINT_METADATA is broken")
    assert newest_whole(b) == (newest, [damaged]) and newest_whole(b, ("params",)) == (2, [])


def test_a_stage_without_any_begins_again(copy, whole, run, config_of, saved, rows_of, assert_same):
    workdir, _, b = copy
    for step in ("1", "2"):
        shorten(b / step, "rest")
    assert run(config_of(STAGES), workdir) is None
    assert_same(saved(b)[0], saved(whole / "stages/1_b")[0])
    assert rows_of(workdir) == rows_of(whole)
    assert sorted(path.name for path in b.iterdir()) == ["1", "1.damaged", "2", "2.damaged"]


def test_a_run_from_before_there_were_seals_goes_on(copy, whole, run, config_of, saved, assert_same):
    workdir, a, b = copy
    shutil.rmtree(b / "2")
    for path in (a / "1", a / "2", b / "1"):
        (path / "seal.json").unlink()
        about = json.loads((path / "about/metadata").read_text())
        assert about.pop("sealed")
        (path / "about/metadata").write_text(json.dumps(about))
    assert run(config_of(STAGES), workdir) is None
    assert_same(saved(b)[0], saved(whole / "stages/1_b")[0])
    assert [(b / step / "seal.json").exists() for step in ("1", "2")] == [False, True]


def test_nothing_begins_anew_by_itself(copy, run, config_of):
    workdir, a, b = copy
    for path in (a / "1", a / "2", b / "1", b / "2"):
        shorten(path)
    before = contents(workdir)
    with pytest.raises(UserError, match="0_a/1 is damaged: .* no whole checkpoint is left") as error:
        run(config_of(STAGES), workdir)
    assert "\n" not in str(error.value) and contents(workdir) == before


def test_no_stage_begins_with_weights_that_are_not_the_last(
    whole, tmp_path, run, config_of, stream_class, saved, rows_of, assert_same
):
    last = tmp_path / "stages/0_a/2"

    class Breaking(stream_class):
        def __init__(self, stage, *arguments, **settings):
            super().__init__(stage, *arguments, **settings)
            if stage.name == "b" and last.exists():
                shorten(last)

    with pytest.raises(UserError, match="0_a: its last checkpoint was damaged .* goes on from step 1"):
        run(config_of(STAGES), tmp_path, open_batches=Breaking)
    assert run(config_of(STAGES), tmp_path) is None
    assert_same(saved(tmp_path / "stages/1_b")[0], saved(whole / "stages/1_b")[0])
    assert rows_of(tmp_path) == rows_of(whole)


def test_readers_pass_over_what_is_damaged(copy, capsys, assert_same):
    workdir, _, b = copy
    newest = load_params(workdir)[2]
    shorten(b / "2", "rest")
    assert_same(load_params(workdir)[2], newest)
    assert not capsys.readouterr().err, "what is not read may be damaged"
    shorten(b / "2")
    shutil.rmtree(b / "1/rest")
    one = load_params(workdir)[2]
    assert "1_b/2 is damaged: params/_METADATA has" in capsys.readouterr().err
    shutil.rmtree(b / "2")
    assert_same(load_params(workdir)[2], one)
    shorten(b / "1")
    with pytest.raises(UserError, match="1_b/1 is damaged: .* no other one of this stage is left") as error:
        load_params(workdir)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "resume, there, message",
    [
        ("never", True, "resume: never, but .* holds a run; choose another --workdir, or --resume=auto"),
        ("must", False, "resume: must, but .* has no checkpoint; correct --workdir, or --resume=auto"),
        ("allways", True, "resume: 'allways' is not known; "),
    ],
)
def test_whether_to_resume_is_checked_first(resume, there, message, whole, tmp_path, run, config_of):
    workdir = whole if there else tmp_path / "new"
    before = contents(workdir)
    with pytest.raises(UserError, match=message):
        run(config_of(STAGES), workdir, resume=resume)
    assert contents(workdir) == before and workdir.exists() == there


def test_a_run_that_is_done_needs_no_writable_folder(whole, run, config_of, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert run(config_of(STAGES), whole, resume="must") is None
    assert "all 2 stages of miniature are done" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to(tmp_path, run, config_of, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/w/x is not possible, .*file is a file; choose a folder"):
        run(config_of(STAGES), tmp_path / "file/w/x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"workdir: {tmp_path} is read-only; make it writable"):
        run(config_of(STAGES), tmp_path / "w/x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_in_one_line(tmp_path):
    message = f"^{tmp_path}: No space left on device; mend that"
    with pytest.raises(UserError, match=message), workdirs.writing(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), workdirs.writing(tmp_path):
        (tmp_path / "none").read_text()
