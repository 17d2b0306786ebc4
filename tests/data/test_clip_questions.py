"""Questions about clips: what a reader of the frames and dots would answer is what is learned."""

import itertools
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lwm.data.clip_frames import scenes
from lwm.data.clip_questions import make_question_batches, question
from lwm.data.clips import FRAME_BITS, PARTS, TASKS, even_places
from lwm.data.datasets import frames_dir
from lwm.data.packing import WEIGHTINGS
from lwm.data.preparation import prepare
from lwm.data.tokenizers import ByteTokenizer
from lwm.errors import UserError
from lwm.parallel.layout import natural_order

SIDE, FRAMES, VIDEOS, TRAIN = 8, 40, ("a.mp4", "b.mp4", "c.mp4", "d.mp4"), 30
MIXTURE = {"odd": 1.0, "count": 1.0, "order": 1.0}
TEXT = 256  # holds a question about 16 frames
BESIDE = ("frames", "frame_ids")
TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, write_video):
    """Four videos in two views, prepared at 8 pixels; the last 10 frames of each are held out."""
    folder = tmp_path_factory.mktemp("films")
    for number, name in enumerate(VIDEOS):
        rng = np.random.default_rng(number)
        write_video(folder / name, list(rng.integers(0, 256, (FRAMES, 32, 48, 3), dtype=np.uint8)))
    output = tmp_path_factory.mktemp("prepared") / "data"
    prepare(
        input=str(folder), output=output, tokenizer="bytes", resolution=SIDE, fps=0, heldout=0.25, views=2,
    )  # fmt: skip
    return output


@pytest.fixture(scope="module")
def known(filmed):
    """{the bytes of a frame: (video, its place there)} of both splits."""
    builder = tfds.builder_from_directory(frames_dir(filmed))
    found = {}
    for split in ("train", "heldout"):
        for record in builder.as_data_source(split=split):
            found[record["image"].tobytes()] = (record["video"].decode(), int(record["index"]))
    return found


def batches(data_dir, **changes):
    common = {"split": "train", "mixture": MIXTURE, "frames": 16, "context_length": TEXT, "batch_size": 4}
    return make_question_batches(data_dir, **(common | {"seed": 0} | changes))


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def clips(batch):
    """(tokens, targets that are learned, media numbers, frames) of every clip of a batch in natural order."""
    for row in range(len(batch["tokens"])):
        for clip in range(1, batch["segments"][row].max() + 1):
            own, beside = batch["segments"][row] == clip, batch["frame_ids"][row] >> FRAME_BITS == clip
            numbers = batch["frame_ids"][row][beside] - (clip << FRAME_BITS)
            assert numbers.tolist() == list(range(1, beside.sum() + 1))
            media = batch["media"][row][own] - (clip << FRAME_BITS)
            learned = batch["targets"][row][own & (batch["weights"][row] > 0)]
            yield batch["tokens"][row][own], learned, media, batch["frames"][row][beside]


def read(text, places, views):
    """What a perfect reader answers: places in the whole clip and names of what is shown."""
    names = [name.split("#")[0] for name, _ in views]
    base = max(names, key=names.count)
    odd = [place for place, name in zip(places, names, strict=False) if name != base]
    if TASKS["odd"] in text:
        return odd[0] * PARTS // 16 + 1
    if TASKS["count"] in text:
        return len(odd)
    return 1 if views.index(views[len(places)]) < views.index(views[len(places) + 1]) else 2


def test_a_batch_is_one_flat_dict_of_arrays(filmed):
    batch = next(batches(filmed))
    found = {name: (array.shape, array.dtype) for name, array in batch.items()}
    row = dict.fromkeys(("tokens", "targets", "segments", "positions", "media"), ((4, TEXT), np.int32))
    row |= dict.fromkeys(("is_vision", "targets_are_vision"), ((4, TEXT), np.bool_))
    beside = {"frames": ((4, 18, SIDE, SIDE, 3), np.uint8), "frame_ids": ((4, 18), np.int32)}
    assert found == row | beside | {"weights": ((4, TEXT), np.float32)}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_what_is_learned_is_what_the_frames_tell(filmed, known, split):
    tasks, whole = set(), np.arange(16)
    for batch in itertools.islice(batches(filmed, split=split), 12):
        for tokens, learned, _, frames in clips(batch):
            views = [known[frame.tobytes()] for frame in frames]
            assert all((index < TRAIN) == (split == "train") for _, index in views)
            text = TOKENIZER.decode(tokens)
            assert text.startswith("You are a helpful assistant. USER: ") and " ASSISTANT: " in text
            assert learned[-1] == TOKENIZER.eos
            assert TOKENIZER.decode(learned) == f" {read(text, whole, views)}"
            tasks.add(next(name for name, asked in TASKS.items() if asked in text))
    assert tasks == set(TASKS)


def test_training_clips_are_recoloured_whole_and_held_out_ones_are_not(filmed):
    plain, other = (next(batches(filmed, batch_size=16, recolour=on)) for on in (False, True))
    assert all((plain[name] == other[name]).all() for name in plain if name != "frames")
    kinds = set()
    for before, after in zip(plain["frames"], other["frames"], strict=True):
        count = (before.reshape(len(before), -1) > 0).any(axis=1).sum()  # of a row of one clip, then black
        ways = [
            (order, negative, mirrored)
            for order in itertools.permutations(range(3))
            for negative in (False, True)
            for mirrored in (False, True)
            if (_recoloured(before[:count], order, negative, mirrored) == after[:count]).all()
        ]
        assert len(ways) == 1
        kinds.update(ways)
    assert len(kinds) > 6
    held = [next(batches(filmed, split="heldout", recolour=on))["frames"] for on in (False, True)]
    assert (held[0] == held[1]).all()


def _recoloured(frames, order, negative, mirrored):
    frames = frames[..., list(order)]
    frames = 255 - frames if negative else frames
    return frames[..., ::-1, :] if mirrored else frames


def test_a_dot_stands_for_each_frame_and_text_sees_the_frames_before_it(filmed):
    for tokens, _, media, frames in clips(next(batches(filmed, batch_size=16))):
        text, (dot,) = TOKENIZER.decode(tokens), TOKENIZER.encode(".")
        asked = next(asked for asked in TASKS.values() if asked in text)
        after = len(TOKENIZER.encode(text[: text.index(asked) + len(asked)])) + 1
        assert (media[:after] == 0).all() and media[-1] == len(frames)
        changes = np.flatnonzero(np.diff(media)) + 1
        assert (tokens[changes] == dot).all() and (np.diff(media)[changes - 1] == 1).all()
        assert (tokens[after:] == dot).sum() == len(changes) == len(frames)


def test_the_video_has_a_line_for_each_eighth_that_is_shown():
    whole, few = (question(TOKENIZER, "order", 16, shown, "2") for shown in (0, 4))
    lines = "\n".join(f"{eighth} .." for eighth in range(1, 9))
    about = f"You are a helpful assistant. USER: {TASKS['order']}\n"
    end = "\nagain 1 .\nagain 2 . ASSISTANT: 2"
    assert TOKENIZER.decode(whole.example.tokens) == about + lines + end
    assert TOKENIZER.decode(few.example.tokens) == about + "2 .\n4 .\n6 .\n8 ." + end
    assert whole.media.max() == 18 and few.media.max() == 6
    assert whole.example.loss.sum() == 3 and whole.example.tokens[0] == TOKENIZER.bos


def test_frames_of_a_clip_are_consecutive_and_odd_ones_come_from_other_files(filmed, known):
    seen = set()
    for batch in itertools.islice(batches(filmed, mixture={"odd": 1}), 12):
        for _, _, _, frames in clips(batch):
            views = [known[frame.tobytes()] for frame in frames]
            names = [name for name, _ in views]
            base = max(names, key=names.count)
            (odd,) = (place for place, name in enumerate(names) if name != base)
            assert names[odd].split("#")[0] != base.split("#")[0]
            steps = {(index - place) % TRAIN for place, (_, index) in enumerate(views) if place != odd}
            assert len(steps) == 1
            seen.add(base)
    assert {name for name in seen if "#" not in name} == set(VIDEOS) and any("#" in name for name in seen)


def test_frames_that_fill_up_the_ring_are_black_and_have_no_number(filmed):
    batch = next(batches(filmed, ring=4, mixture={"odd": 1.0, "order": 1.0}))
    assert batch["frames"].shape[1] == 20
    empty = batch["frame_ids"] == 0
    assert empty.sum(axis=1).tolist() == [
        4 if "belong. In" in TOKENIZER.decode(row) else 2 for row in restored(batch, 4)["tokens"]
    ]
    assert not batch["frames"][empty].any() and (np.diff(empty.astype(int), axis=1) >= 0).all()


def restored(batch, ring, stripe=0):
    back = natural_order(TEXT, ring, stripe)
    return {name: array if name in BESIDE else array[:, back] for name, array in batch.items()}


@pytest.mark.parametrize("stripe", [0, 4])
def test_text_comes_in_the_order_of_the_ring_and_frames_in_their_own(filmed, stripe):
    pairs = zip(batches(filmed), batches(filmed, ring=2, stripe=stripe), strict=True)
    for plain, ring in itertools.islice(pairs, 3):
        assert not equal(plain, ring) and equal(plain, restored(ring, 2, stripe))


def test_several_questions_share_a_row(filmed, known):
    settings = {"frames": 8, "mixture": {"count": 1.0, "order": 1.0}}
    batch = next(batches(filmed, questions=3, context_length=3 * TEXT, **settings))
    assert batch["segments"].max(axis=1).tolist() == [3] * 4
    used = batch["segments"] > 0
    assert (batch["media"] >> FRAME_BITS == batch["segments"]).all() and not batch["media"][~used].any()
    for row in range(4):
        starts = np.flatnonzero(np.diff(batch["segments"][row][used[row]], prepend=0))
        assert (batch["positions"][row][starts] == 0).all() and len(starts) == 3
    assert batch["weights"].sum() == pytest.approx(12)
    for tokens, learned, _, frames in clips(batch):
        views = [known[frame.tobytes()] for frame in frames]
        assert TOKENIZER.decode(learned) == f" {read(TOKENIZER.decode(tokens), np.arange(8), views)}"


def test_the_sampled_are_the_same_clips_at_even_distances(filmed):
    for whole, few in itertools.islice(zip(batches(filmed), batches(filmed, shown=4), strict=True), 4):
        for all_of, some_of in zip(clips(whole), clips(few), strict=True):
            assert (all_of[1] == some_of[1]).all(), "the same answer"
            assert (all_of[3][even_places(16, 4)] == some_of[3][:4]).all()
            assert (all_of[3][16:] == some_of[3][4:]).all(), "what is shown again"
            assert some_of[2].max() == len(some_of[3])


@pytest.mark.parametrize("count", [2, 4])
def test_the_shards_of_all_hosts_make_the_batch_of_one(filmed, count):
    hosts = [batches(filmed, process_index=index, process_count=count) for index in range(count)]
    for batch, *parts in itertools.islice(zip(batches(filmed), *hosts, strict=True), 3):
        assert equal(batch, {name: np.concatenate([part[name] for part in parts]) for name in batch})


@pytest.mark.parametrize("cut", [0, 2])
def test_resumed_is_uninterrupted(filmed, cut):
    whole = list(itertools.islice(batches(filmed), 5))
    first, again = batches(filmed), batches(filmed)
    for _ in range(cut):
        next(first)
    next(again)
    again.set_state(json.loads(json.dumps(first.get_state())))
    assert all(map(equal, whole[cut:], again))


def test_steps_lanes_and_seeds_ask_about_other_clips(filmed):
    one, other = batches(filmed), batches(filmed, seed=1)
    drawn = [row.tobytes() for batch in (next(one), next(one), next(other)) for row in batch["frames"]]
    assert len(set(drawn)) == 12


def test_scenes_are_the_videos_with_their_views(filmed, data_dir):
    train, held = scenes(filmed, "train"), scenes(filmed, "heldout")
    assert set(train) == set(held) == set(VIDEOS)
    assert [len(view) for views in train.values() for view in views] == [TRAIN] * 8
    assert sorted(number for views in held.values() for view in views for number in view) == list(range(40))
    assert "images/red.png" not in scenes(data_dir, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": 20}, "frames: 20 is not a multiple of 8"),
        ({"mixture": {"even": 1.0}}, "mixture: there is no question 'even'"),
        ({"context_length": 100}, "context_length: 100 does not hold 1 x "),
        ({"questions": 2}, "context_length: 256 does not hold 2 x "),
        ({"context_length": 254, "ring": 4}, "context_length: 254 is not a multiple of 8"),
        ({"batch_size": 6, "process_count": 4}, "batch_size: 6 rows cannot be shared evenly by 4 hosts"),
        ({"weighting": "row"}, f"weighting: 'row' is not one of {WEIGHTINGS}"),
        ({"split": "test"}, "has test frames of 0; prepare more videos"),
    ],
)
def test_what_does_not_fit_is_named(filmed, changes, message):
    with pytest.raises(UserError) as error:
        batches(filmed, **changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_too_few_videos_are_named(data_dir, tmp_path):
    with pytest.raises(UserError, match="frames: 16 of a clip come from 3 videos, and .* train frames of 2"):
        batches(data_dir)
    with pytest.raises(UserError, match="has no data.json; make it by python -m lwm.prepare"):
        batches(tmp_path)
