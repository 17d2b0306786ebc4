import itertools
import json

import numpy as np
import pytest

from lwm.data import task_batches
from lwm.data.task_batches import make_task_batches
from lwm.data.task_records import load_tasks, task_records
from lwm.data.tasks import TASKS
from lwm.data.tokenizers import load_tokenizer
from lwm.errors import UserError

R, A, S, T = 8, 140, 24, 40
MIXTURE = {"spanish_english": 2, "stamp_class": 1, "parsing": 1, "speech": 1, "stamp_caption": 1}
SHAPES = {
    "classify": {"images": (np.uint8, R, R, 3), "labels": (np.int32,)},
    "caption": {"images": (np.uint8, R, R, 3), "targets": (np.int32, T)},
    "speech": {"waveform": (np.float32, A), "samples": (np.int32,), "targets": (np.int32, T)},
    "translate": {"source": (np.int32, S), "targets": (np.int32, T)},
}


def batches(tasks_dir, **changes):
    common = {"split": "train", "mixture": MIXTURE, "batch_size": 12, "tasks": tuple(TASKS), "seed": 0}
    sizes = {"resolution": R, "samples": A, "source_length": S, "target_length": T}
    return make_task_batches(tasks_dir, **(common | sizes | changes))


def equal(one, other):
    if one.keys() != other.keys():
        return False
    return all(
        one[kind].keys() == other[kind].keys()
        and all(np.array_equal(one[kind][name], other[kind][name]) for name in one[kind])
        for kind in one
    )


@pytest.fixture(scope="module")
def tokenizer(tasks_dir):
    return load_tokenizer(tasks_dir / "tokenizer.model")


def said(tokenizer, ids):
    """The text of padded ids, which have to end on the end of text."""
    count = np.count_nonzero(ids)
    assert ids[count - 1] == tokenizer.eos and (ids[: count - 1] > 2).all() and not ids[count:].any()
    return tokenizer.decode(ids)


def test_a_batch_has_the_arrays_of_each_kind(tasks_dir):
    batch = next(batches(tasks_dir))
    expected = {"classify": 2, "caption": 2, "speech": 2, "translate": 6}
    assert {kind: len(arrays["task"]) for kind, arrays in batch.items()} == expected
    common = {"task": (np.int32,), "weights": (np.float32,)}
    for kind, arrays in batch.items():
        assert {name: (array.dtype.type, *array.shape[1:]) for name, array in arrays.items()} == (
            SHAPES[kind] | common
        )


def test_rows_stand_in_the_order_of_the_tasks_in_every_step(tasks_dir):
    names = list(TASKS)
    for batch in itertools.islice(batches(tasks_dir), 12):
        tasks = {kind: [names[task] for task in arrays["task"]] for kind, arrays in batch.items()}
        assert tasks["translate"] == ["spanish_english"] * 4 + ["parsing"] * 2
        assert tasks["classify"] == ["stamp_class"] * 2 and tasks["speech"] == ["speech"] * 2
        assert all((arrays["weights"] == 1).all() for arrays in batch.values())


def test_one_pass_is_all_records_once_in_their_order(tasks_dir, tokenizer):
    passed = list(batches(tasks_dir, repeat=False))
    classes = load_tasks(tasks_dir)["classes"]
    for number, task in enumerate(TASKS):
        records = list(task_records(tasks_dir, task, "train")) if task in MIXTURE else []
        found = []
        for batch in passed:
            rows = batch[TASKS[task].kind]
            for row in np.flatnonzero((rows["task"] == number) & (rows["weights"] > 0)):
                found.append({name: array[row] for name, array in rows.items()})
        assert len(found) == len(records)
        for row, record in zip(found, records, strict=True):
            if "targets" in row:
                assert said(tokenizer, row["targets"]) == record.target
            if "labels" in row:
                assert classes[row["labels"]] == record.label
            if "source" in row:
                assert said(tokenizer, row["source"]) == record.source
            if "samples" in row:
                count = row["samples"]
                assert (np.round(row["waveform"][:count] * 2**15) == record.waveform).all()
                assert count == len(record.waveform) and not row["waveform"][count:].any()
            if "images" in row:
                assert (
                    sorted({tuple(pixel) for pixel in row["images"].reshape(-1, 3).tolist()})[-1]
                    == (255,) * 3
                )


def test_filler_is_a_record_without_weight(tasks_dir):
    plain, filled = next(batches(tasks_dir)), next(batches(tasks_dir, multiple=4))
    for kind, rows in (("classify", 4), ("caption", 4), ("speech", 4), ("translate", 8)):
        own = len(plain[kind]["task"])
        assert filled[kind]["weights"].tolist() == [1.0] * own + [0.0] * (rows - own)
        assert equal({kind: {name: array[:own] for name, array in filled[kind].items()}}, {kind: plain[kind]})
        assert all(array[own:].any() for name, array in filled[kind].items() if name in ("images", "targets"))


def test_one_pass_goes_on_with_filler_until_all_tasks_are_through(tasks_dir):
    about = load_tasks(tasks_dir)["tasks"]
    mixture = {"parsing": 1, "stamp_class": 1}
    passed = list(batches(tasks_dir, mixture=mixture, batch_size=8, repeat=False))
    assert len(passed) == -(-about["parsing"]["train"] // 4)
    for kind, task in (("translate", "parsing"), ("classify", "stamp_class")):
        assert sum(batch[kind]["weights"].sum() for batch in passed) == about[task]["train"]
    assert not passed[-1]["classify"]["weights"].any()


@pytest.mark.parametrize("cut", [0, 1, 4])
@pytest.mark.parametrize(
    "settings", [{}, {"repeat": False, "split": "heldout"}, {"shuffle_labels": ("parsing",)}]
)
def test_resumed_is_uninterrupted(tasks_dir, cut, settings):
    whole = list(itertools.islice(batches(tasks_dir, **settings), 6))
    first, again = batches(tasks_dir, **settings), batches(tasks_dir, **settings)
    for _ in range(cut):
        next(first)
    next(again)
    again.set_state(json.loads(json.dumps(first.get_state())))
    rest = list(itertools.islice(again, 6 - cut))
    assert len(rest) == len(whole) - cut > 0 and all(map(equal, rest, whole[cut:]))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("repeat", [True, False])
def test_the_rows_of_all_hosts_make_the_batch_of_one(tasks_dir, count, repeat):
    one = batches(tasks_dir, repeat=repeat, multiple=4)
    hosts = [
        batches(tasks_dir, repeat=repeat, multiple=4, process_index=index, process_count=count)
        for index in range(count)
    ]
    steps = 0
    for batch, *parts in itertools.islice(zip(one, *hosts, strict=True), 8):
        assert equal(
            batch,
            {
                kind: {name: np.concatenate([part[kind][name] for part in parts]) for name in batch[kind]}
                for kind in batch
            },
        )
        steps += 1
    assert steps > 4


def test_each_epoch_is_a_permutation_of_its_own_and_seeds_differ(tasks_dir):
    count = load_tasks(tasks_dir)["tasks"]["spanish_english"]["train"]
    settings = {"mixture": {"spanish_english": 1}, "batch_size": count}
    epochs = [batch["translate"]["source"] for batch in itertools.islice(batches(tasks_dir, **settings), 2)]
    other = next(batches(tasks_dir, seed=1, **settings))["translate"]["source"]
    stored = next(batches(tasks_dir, repeat=False, **settings))["translate"]["source"]
    orders = {epoch.tobytes() for epoch in (*epochs, other, stored)}
    assert len(orders) == 4
    assert len({tuple(sorted(map(bytes, epoch))) for epoch in (*epochs, other, stored)}) == 1


def test_weights_of_the_loss_are_those_of_the_task(tasks_dir):
    batch = next(batches(tasks_dir, loss_weights={"parsing": 0.25, "speech": 0.0}))
    assert batch["translate"]["weights"].tolist() == [1.0] * 4 + [0.25] * 2
    assert not batch["speech"]["weights"].any() and batch["caption"]["weights"].all()


@pytest.mark.parametrize(("task", "name"), [("stamp_class", "labels"), ("parsing", "targets")])
def test_shuffled_targets_are_the_same_ones_dealt_out_anew(tasks_dir, task, name):
    kind = TASKS[task].kind
    settings = {"mixture": {task: 1}, "batch_size": load_tasks(tasks_dir)["tasks"][task]["train"]}
    settings |= {"repeat": False}
    plain, again = next(batches(tasks_dir, **settings))[kind], None
    for seed in (0, 1):
        dealt = next(batches(tasks_dir, seed=seed, shuffle_labels=(task,), **settings))[kind]
        assert equal({kind: dealt}, {kind: again or dealt}), "always in the same way"
        again = dealt
    assert (again[name] != plain[name]).any()
    assert sorted(map(bytes, again[name])) == sorted(map(bytes, plain[name]))
    assert equal({kind: again | {name: None}}, {kind: plain | {name: None}})
    held = [
        next(batches(tasks_dir, split="heldout", shuffle_labels=shuffled, **settings))
        for shuffled in ((task,), ())
    ]
    assert equal(*held), "what is held out stays as it is"


def test_a_task_is_learned_from_a_few_samples_which_are_among_more(tasks_dir):
    def seen(**changes):
        stream = batches(tasks_dir, mixture={"parsing": 1}, batch_size=20, **changes)
        return {bytes(row) for _ in range(3) for row in next(stream)["translate"]["source"]}

    few, more = seen(at_most={"parsing": 3}), seen(at_most={"parsing": 9})
    assert len(few) == 3 and few < more and len(more) == 9
    assert seen(at_most={"parsing": 3}, seed=5) == few, "whatever the seed of a run"
    assert seen(split="heldout", at_most={"parsing": 3}) == seen(split="heldout")


def test_tasks_of_the_model_may_be_more_than_those_of_the_mixture(tasks_dir):
    tasks = ("painting", "speech", "parsing")
    batch = next(batches(tasks_dir, tasks=tasks, mixture={"parsing": 1, "painting": 0}, batch_size=2))
    assert list(batch) == ["translate"] and batch["translate"]["task"].tolist() == [2, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mixture": {"painting": 1}},
            "mixture: the model has no task 'painting'; its tasks are stamp_class, ",
        ),
        (
            {"mixture": {"painting": 1}, "tasks": ("painting",)},
            "has no task 'painting'; its tasks are stamp_cl",
        ),
        ({"shuffle_labels": ("painting",)}, "mixture: the model has no task 'painting'"),
        ({"at_most": {"painting": 1}}, "mixture: the model has no task 'painting'"),
        ({"loss_weights": {"painting": 1}}, "mixture: the model has no task 'painting'"),
        ({"mixture": {"speech": -1, "parsing": 2}}, "mixture: weight -1 of speech is not 0 or more"),
        ({"mixture": {"speech": 0}}, "has no task of positive weight"),
        ({"batch_size": 4}, "mixture: "),
        ({"split": "test"}, "split: 'test' is neither 'train' nor 'heldout'"),
        ({"resolution": 16}, "resolution: 16, but the images of the data folder have 8 pixels; use 8 or"),
        ({"samples": 100}, "samples: 100 does not hold the 130 of the longest samples of speech; use 130"),
        ({"source_length": 8}, "source_length: 8 does not hold the "),
        ({"target_length": 8}, "target_length: 8 does not hold the "),
        ({"process_index": 2, "process_count": 2}, "process_index: 2 is not one of 2 hosts"),
        ({"multiple": 0}, "multiple: 0 is less than one row"),
    ],
)
def test_what_does_not_fit_is_named(tasks_dir, changes, message):
    with pytest.raises(UserError) as error:
        batches(tasks_dir, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_no_folder_of_tasks_is_named(tmp_path):
    with pytest.raises(
        UserError, match="has no tasks.json; make it by python -m experiments.multimodel_data"
    ):
        batches(tmp_path)


@pytest.fixture
def changed(tasks_dir, tmp_path):
    """`changed(**fields)`: the folder of tasks with another tasks.json."""

    def make(**fields):
        for name in ("task_records", "tokenizer.model"):
            (tmp_path / name).symlink_to(tasks_dir / name)
        (tmp_path / "tasks.json").write_text(json.dumps(load_tasks(tasks_dir) | fields))
        return tmp_path

    return make


def test_records_are_held_against_the_folder_that_they_are_in(changed):
    with pytest.raises(UserError, match="^task speech: rate of sample '.*' is 100, needed 50; prepare it"):
        next(batches(changed(rate=50), mixture={"speech": 1}))


def test_a_tokenizer_that_is_not_that_of_the_folder_is_named(changed):
    with pytest.raises(UserError, match="tokenizer.model of .* has vocab_size 320, but its tasks.json 300; "):
        batches(changed(vocab_size=300))


def test_a_split_without_records_is_named(tasks_dir, monkeypatch):
    monkeypatch.setattr(task_batches, "task_records", lambda *where: [])
    with pytest.raises(UserError, match="has no sample of parsing in split 'train'; prepare it again"):
        batches(tasks_dir, mixture={"parsing": 1})
