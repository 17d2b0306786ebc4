import itertools
import json

import numpy as np
import pytest

from lwm.data.datasets import documents
from lwm.data.manifest import load_manifest
from lwm.data.pipeline import make_batches, make_image_batches
from lwm.errors import UserError
from lwm.parallel.layout import natural_order

MIXTURE = {"text": 0.5, "video": 0.25, "image": 0.125, "chat": 0.125}
DTYPES = {
    "tokens": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "segments": np.int32,
    "positions": np.int32,
    "is_vision": np.bool_,
    "targets_are_vision": np.bool_,
}


def batches(data_dir, **changes):
    common = {"split": "train", "mixture": MIXTURE, "context_length": 128, "batch_size": 4, "seed": 0}
    return make_batches(data_dir, **(common | changes))


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_batch_is_one_flat_dict_of_arrays(data_dir):
    batch = next(batches(data_dir))
    assert {name: array.dtype for name, array in batch.items()} == DTYPES
    assert {array.shape for array in batch.values()} == {(4, 128)}


def test_ids_stay_inside_their_vocabularies(data_dir):
    manifest = load_manifest(data_dir)
    for batch in itertools.islice(batches(data_dir), 20):
        for ids, vision in (("tokens", "is_vision"), ("targets", "targets_are_vision")):
            assert batch[ids][batch[vision]].max(initial=0) <= manifest["eov"]
            assert batch[ids][~batch[vision]].max() < manifest["vocab_size"]


def test_pictures_come_in_whole_frames_that_end_on_eov(data_dir):
    manifest, spans = load_manifest(data_dir), 0
    for batch in itertools.islice(batches(data_dir, mixture={"video": 1}), 10):
        for row in range(4):
            vision = batch["targets_are_vision"][row].astype(int)
            edges = np.flatnonzero(np.diff(vision, prepend=0, append=0))
            for first, last in edges.reshape(-1, 2):
                frames = batch["targets"][row, first:last].reshape(-1, manifest["codes_per_frame"] + 1)
                assert (frames[:, :-1] < manifest["codes"]).all()
                assert frames[-1, -1] == manifest["eov"] and (frames[:-1, -1] == manifest["eof"]).all()
                spans += 1
    assert spans >= 40


@pytest.mark.parametrize("cut", [0, 1, 5])
@pytest.mark.parametrize("settings", [{}, {"mixture": {"text": 1}, "context_length": 50}, {"repeat": False}])
def test_resumed_is_uninterrupted(data_dir, cut, settings):
    whole = list(itertools.islice(batches(data_dir, **settings), 12))
    first = batches(data_dir, **settings)
    for _ in range(cut):
        next(first)
    state = json.loads(json.dumps(first.get_state()))
    again = batches(data_dir, **settings)
    next(again)
    again.set_state(state)
    rest = list(itertools.islice(again, 12 - cut))
    assert len(rest) == len(whole) - cut and all(map(equal, rest, whole[cut:]))


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("repeat", [True, False])
def test_the_shards_of_all_hosts_make_the_batch_of_one(data_dir, count, repeat):
    one = batches(data_dir, repeat=repeat, ring=4)
    hosts = [
        batches(data_dir, repeat=repeat, ring=4, process_index=index, process_count=count)
        for index in range(count)
    ]
    steps = 0
    for batch, *parts in itertools.islice(zip(one, *hosts, strict=True), 15):
        assert equal(batch, {name: np.concatenate([part[name] for part in parts]) for name in batch})
        steps += 1
    assert steps > 5


def test_states_of_all_hosts_together_serve_any_number_of_hosts(data_dir):
    hosts = [batches(data_dir, process_index=index, process_count=2) for index in range(2)]
    for _ in range(3):
        for host in hosts:
            next(host)
    states = [host.get_state() for host in hosts]
    one = batches(data_dir)
    one.set_state({"step": 3, "lanes": states[0]["lanes"] | states[1]["lanes"]})
    assert equal(
        next(one), {name: np.concatenate(pair) for name, pair in zip_values(next(hosts[0]), next(hosts[1]))}
    )


def zip_values(one, other):
    return ((name, (one[name], other[name])) for name in one)


@pytest.mark.parametrize("stripe", [0, 4])
def test_the_order_of_the_ring_is_a_reordering_of_every_array(data_dir, stripe):
    plain, ring = batches(data_dir), batches(data_dir, ring=8, stripe=stripe)
    order = natural_order(128, 8, stripe)
    for _ in range(3):
        found, expected = next(ring), next(plain)
        assert not equal(found, expected)
        assert equal({name: array[:, order] for name, array in found.items()}, expected)


def test_the_mixture_is_a_share_of_the_rows_in_every_lane(data_dir):
    vision = np.zeros(4)
    for batch in itertools.islice(batches(data_dir, mixture={"text": 3, "video": 1}), 200):
        rows = batch["is_vision"].any(1)
        assert rows.sum() == 1
        vision += rows
    assert (vision > 30).all()


def test_seeds_differ_and_the_same_seed_does_not(data_dir):
    assert equal(next(batches(data_dir, seed=1)), next(batches(data_dir, seed=1)))
    assert not equal(next(batches(data_dir, seed=1)), next(batches(data_dir, seed=2)))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_one_pass_learns_every_token_of_the_text_once(data_dir, split):
    source = documents(data_dir, "text", split)
    expected = np.sort(np.concatenate([np.append(one.tokens, 2) for one in source]))
    passed = list(batches(data_dir, split=split, mixture={"text": 1}, repeat=False))
    learned = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in passed])
    assert (np.sort(learned) == expected).all()
    assert not passed[-1]["segments"].all(), "lanes that are through give padding"


def test_one_pass_of_a_mixture_ends_when_all_sources_have(data_dir):
    passed = list(batches(data_dir, mixture={"text": 1, "video": 9}, repeat=False))
    text = sum((batch["weights"] > 0)[~batch["targets_are_vision"]].sum() for batch in passed)
    assert text > load_manifest(data_dir)["sources"]["text"]["train"]["tokens"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {}}, "mixture: .* no source of positive weight"),
        ({"mixture": {"text": 0.0}}, "mixture: "),
        ({"mixture": {"text": -1}}, "mixture: "),
        ({"mixture": {"books": 1}}, "mixture: there is no source 'books'; the data has"),
        ({"mixture": {"image": 1}, "split": "test"}, "mixture: source 'image' has no test documents"),
        ({"ring": 8, "stripe": 12}, "context_length: 128 is not a multiple of 192"),
        ({"context_length": 100, "ring": 8}, "context_length: 100 is not a multiple of 16"),
        ({"context_length": 0}, "context_length: 0"),
        ({"context_length": 20}, "context_length: 20 does not hold .* of lines.jsonl:1"),
        ({"batch_size": 6, "process_count": 4}, "batch_size: 6 rows cannot be shared evenly by 4 hosts"),
        ({"weighting": "row"}, "weighting: 'row'"),
    ],
)
def test_what_does_not_fit_is_named(data_dir, changes, message):
    with pytest.raises(UserError, match=message):
        batches(data_dir, **changes)


def test_a_folder_that_is_no_data_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="has no data.json; make it by python -m lwm.prepare"):
        batches(tmp_path)


def images(data_dir, **changes):
    return make_image_batches(data_dir, **({"split": "train", "batch_size": 8, "seed": 0} | changes))


def test_images_are_resumed_and_shared_by_hosts(data_dir):
    one = images(data_dir)
    whole = [next(one)["images"] for _ in range(30)]
    assert whole[0].shape == (8, 8, 8, 3) and whole[0].dtype == np.uint8
    hosts = [images(data_dir, process_index=index, process_count=4) for index in range(4)]
    for batch in whole[:3]:
        assert (np.concatenate([next(host)["images"] for host in hosts]) == batch).all()
    again = images(data_dir)
    again.set_state(json.loads(json.dumps(hosts[0].get_state())))
    assert all((next(again)["images"] == batch).all() for batch in whole[3:])


def test_images_of_an_epoch_are_all_frames(data_dir):
    count = load_manifest(data_dir)["frames"]["train"]
    stored = [batch["images"] for batch in images(data_dir, batch_size=1, repeat=False)]
    shuffled = [batch["images"] for batch in itertools.islice(images(data_dir, batch_size=1), count)]
    assert len(stored) == count
    assert sorted(image.tobytes() for image in stored) == sorted(image.tobytes() for image in shuffled)
    assert [image.tobytes() for image in stored] != [image.tobytes() for image in shuffled]


def test_more_images_than_there_are_is_refused(data_dir):
    with pytest.raises(UserError, match="batch_size: 5000 is more than the"):
        images(data_dir, batch_size=5000)
