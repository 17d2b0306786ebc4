import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lwm.data.task_preparation import is_heldout, prepare_tasks, training_texts
from lwm.data.task_records import Record, decode_png, load_tasks, task_records
from lwm.data.task_sources.reading import Reading
from lwm.data.tasks import TASKS, Task, words
from lwm.data.tokenizers import load_tokenizer
from lwm.errors import UserError


def everything(tasks_dir):
    return {
        (task, split): list(task_records(tasks_dir, task, split))
        for task in TASKS
        for split in ("train", "heldout")
    }


def test_all_tasks_are_there_with_their_counts(tasks_dir):
    about = load_tasks(tasks_dir)
    assert list(about["tasks"]) == list(TASKS) and about["classes"] == ["animals", "symbols"]
    for (task, split), records in everything(tasks_dir).items():
        assert len(records) == about["tasks"][task][split] > 0
    total = {name: one["train"] + one["heldout"] for name, one in about["tasks"].items()}
    expected = dict(stamp_class=20, stamp_caption=20, spanish_english=37, english_spanish=37)
    assert total == expected | dict(english_french=16, french_english=16, speech=10, parsing=31)
    assert about["rate"] == 100 and about["max_samples"] == 130 and about["damaged"] == []


def test_nothing_is_on_both_sides_in_any_task(tasks_dir):
    sides = {"train": (set(), set()), "heldout": (set(), set())}
    for (task, split), records in everything(tasks_dir).items():
        bases, said = sides[split]
        bases |= {one.base for one in records}
        if TASKS[task].prose:
            said |= {words(text) for one in records for text in (one.source, one.target)} - {""}
    for train, heldout in zip(sides["train"], sides["heldout"], strict=True):
        assert train and heldout and not train & heldout


def test_a_stamp_is_on_the_side_of_its_namesakes(tasks_dir):
    """The two cats are told by one caption, and an emoji has the same name."""
    found = everything(tasks_dir)
    sides = {}
    for (_, split), records in found.items():
        for one in records:
            sides.setdefault(one.key, set()).add((one.base, split))
    cats = [sides[key] for key in sides if key.endswith("all/cat") or key == "name:emoji:\U0001f400"]
    assert len(cats) == 3 and len(set.union(*cats)) == 1
    assert all(len(sides[key]) == 1 for key in sides)


def test_samples_come_back_as_they_were_read(tasks_dir, packages):
    reading = Reading(str(packages), 8, 100, library=f"{packages}/library")
    found = {(task, one.key): one for (task, _), records in everything(tasks_dir).items() for one in records}
    for name, task in TASKS.items():
        for one in map(task.view, task.read(reading)):
            other = found[name, one.key]
            assert other._replace(base="", waveform=None) == one._replace(base="", waveform=None)
            np.testing.assert_array_equal(other.waveform, one.waveform)
            assert other.waveform.dtype == np.int16
    assert decode_png(found["stamp_class", "stamp:symbols/all/dog"]).shape == (8, 8, 3)


def test_tfds_alone_reads_them(tasks_dir):
    folder = tasks_dir / "task_records" / "spanish_english" / "1.0.0"
    record = tfds.builder_from_directory(folder).as_data_source("train")[0]
    assert record["key"].startswith(b"verse:") and record["target"].endswith(b".")


def test_lengths_are_those_of_the_vocabulary(tasks_dir):
    about, tokenizer = load_tasks(tasks_dir), load_tokenizer(tasks_dir / "tokenizer.model")
    assert about["vocab_size"] == tokenizer.vocab_size == 320 and about["eos"] == tokenizer.eos
    for field in ("source", "target"):
        texts = [
            getattr(one, field)
            for split in ("train", "heldout")
            for one in task_records(tasks_dir, "english_spanish", split)
        ]
        sizes = sorted(len(tokenizer.encode(text)) + 1 for text in texts)
        found = about["tasks"]["english_spanish"][field]
        assert (found["longest"], found["median"]) == (sizes[-1], sizes[len(sizes) // 2])


def test_the_vocabulary_sees_no_text_that_is_held_out(tasks_dir, monkeypatch):
    samples = {}
    for (task, split), records in everything(tasks_dir).items():
        samples.setdefault(task, {})[split] = records
    texts = list(training_texts(samples))
    assert len(set(texts)) == len(texts)
    held = {one.target for own in samples.values() for one in own["heldout"]}
    trained = {one.target for own in samples.values() for one in own["train"]} - {""}
    assert set(texts) >= trained and not set(texts) & (held - trained)
    monkeypatch.setattr("lwm.data.task_preparation._SHARE", 50)
    assert 8 <= len(list(training_texts(samples))) < len(texts) / 3


def test_what_is_too_long_is_left_out_and_counted(packages, options, tmp_path):
    settings = {"max_source": 32, "max_target": 44, "max_seconds": 1.1}
    done = prepare_tasks(**options(packages, tmp_path / "data", **settings))
    whole = load_tasks(tmp_path / "data")
    assert done == whole
    assert done["tasks"]["speech"]["dropped"].get("long waveform", 0) <= 2
    for task, total in {"speech": 10, "spanish_english": 37, "parsing": 31, "stamp_caption": 20}.items():
        about = done["tasks"][task]
        assert about["train"] + about["heldout"] + sum(about["dropped"].values()) == total
        assert about["source"]["longest"] <= 32 and about["target"]["longest"] <= 44
    assert done["max_samples"] <= 110 and any(one["dropped"] for one in done["tasks"].values())


def test_the_same_command_again_does_nothing_and_another_is_refused(tasks_dir, packages, options):
    before = {path: path.stat().st_mtime_ns for path in tasks_dir.rglob("*")}
    assert prepare_tasks(**options(packages, tasks_dir)) == json.loads((tasks_dir / "tasks.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in tasks_dir.rglob("*")} == before
    with pytest.raises(UserError, match="seed: .* was made with 0, not 1; choose another --output"):
        prepare_tasks(**options(packages, tasks_dir, seed=1))


def test_two_runs_make_the_same(tasks_dir, packages, options, tmp_path):
    assert prepare_tasks(**options(packages, tmp_path / "again")) == load_tasks(tasks_dir)
    for one in (tasks_dir, tmp_path / "again"):
        assert sorted(path.name for path in one.iterdir()) == [
            "task_records",
            "tasks.json",
            "tokenizer.model",
        ]
    model = "tokenizer.model"
    assert (tasks_dir / model).read_bytes() == (tmp_path / "again" / model).read_bytes()


def test_an_interrupted_run_leaves_no_folder_and_the_next_one_makes_it(
    packages, options, tmp_path, monkeypatch
):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lwm.data.task_preparation.write_json", interrupted)
        prepare_tasks(**options(packages, tmp_path / "data"))
    assert not (tmp_path / "data").exists()
    prepare_tasks(**options(packages, tmp_path / "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_damaged_file_stops_unless_it_may_be_skipped(fill, options, tmp_path):
    folder = fill(tmp_path / "packages")
    (path,) = folder.rglob("vm/owl.wav")
    path.write_bytes(path.read_bytes()[:44])
    with pytest.raises(
        UserError, match=r"owl.wav is cut off: 0 of its 60 samples are there; .*--skip_damaged"
    ):
        prepare_tasks(**options(folder, tmp_path / "data"))
    done = prepare_tasks(**options(folder, tmp_path / "data", skip_damaged=True))
    assert len(done["damaged"]) == 1 and "owl.wav is cut off" in done["damaged"][0]
    assert done["tasks"]["speech"]["train"] + done["tasks"]["speech"]["heldout"] == 9


def test_a_sample_that_does_not_fit_its_task_is_named(packages, options, tmp_path):
    tasks = {"hear": Task("speech", TASKS["spanish_english"].read)}
    with pytest.raises(
        UserError, match="task hear: sample 'verse:.*' has no waveform, and kind 'speech' takes"
    ):
        prepare_tasks(**options(packages, tmp_path / "data", tasks=tasks))


def test_a_task_without_samples_is_named(packages, options, tmp_path):
    tasks = {"one": Task("translate", lambda reading: iter([Record("k", "b", source="a b", target="c d")]))}
    with pytest.raises(UserError, match="task one: no sample is left in split '.*' of 1; change"):
        prepare_tasks(**options(packages, tmp_path / "data", tasks=tasks | TASKS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heldout": 1.0}, "heldout: 1.0 is not a share between 0 and 1"),
        ({"resolution": 0}, "resolution: 0 is not positive"),
        ({"max_seconds": -1}, "max_seconds: -1 is not positive"),
        ({"vocab_size": 100_000}, "vocab_size: 100000 does not suit the training text"),
        ({"sources": "/nowhere"}, "sources: /nowhere has no tuxpaint-stamps-default/"),
    ],
)
def test_settings_that_make_no_sense_are_named(packages, options, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        prepare_tasks(**options(packages, tmp_path / "data", **changes))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_is_left_alone(packages, options, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="output: .* exists and holds no tasks.json; choose another folder"):
        prepare_tasks(**options(packages, tmp_path))
    with pytest.raises(
        UserError, match="has no tasks.json; make it by python -m experiments.multimodel_data"
    ):
        load_tasks(tmp_path)


def test_of_many_items_the_share_is_held_out_whatever_else_there_is():
    held = [is_heldout(f"item:{at}", 0.15, 0) for at in range(4000)]
    assert 0.13 < np.mean(held) < 0.17
    other = [is_heldout(f"item:{at}", 0.15, 1) for at in range(4000)]
    assert held != other
    more = [is_heldout(f"item:{at}", 0.3, 0) for at in range(4000)]
    assert all(later for first, later in zip(held, more, strict=True) if first)
