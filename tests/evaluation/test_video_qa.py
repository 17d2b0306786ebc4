import numpy as np
import pytest

from lwm.data.clips import MOST, PARTS, TASKS, chance
from lwm.data.tokenizers import ByteTokenizer
from lwm.errors import UserError
from lwm.evaluation.cells import Outcome
from lwm.evaluation.video_qa import Layout, clip, evaluate, prompt

TOKENIZER = ByteTokenizer()
LAYOUT = Layout((5, 6), (7, 8), 100, 101)
P = 3
# Frames of scene s have codes 10 s to 10 s + 9, so every frame tells its scene.
SCENES = [
    10 * scene + np.random.default_rng(scene).integers(0, 10, (6 + scene, P)).astype(np.int32)
    for scene in range(4)
]


def videos(asked):
    """The videos in a prompt, each [frames, P], and its text."""
    found, start = [], None
    for at, (token, vision) in enumerate(zip(asked.tokens, asked.is_vision, strict=True)):
        if vision and start is None:
            start = at
        if vision and token == LAYOUT.eov:
            found.append(asked.tokens[start : at + 1].reshape(-1, P + 1))
            start = None
    assert start is None
    for video in found:
        assert (video[:-1, -1] == LAYOUT.eof).all()
    return [video[:, :-1] for video in found], TOKENIZER.decode(asked.tokens[~asked.is_vision].tolist())


def read(asked):
    """What a perfect reader of the frames in the prompt answers, None where they do not tell."""
    (video, *again), text = videos(asked)
    scenes = video[:, 0] // 10
    odd = np.flatnonzero(scenes != np.bincount(scenes).argmax())
    if TASKS["odd"] in text:
        return str(odd[0] * PARTS // len(video) + 1) if len(odd) else None
    if TASKS["count"] in text:
        return str(len(odd)) if len(odd) else None
    first = [np.flatnonzero((video == one).all(axis=1) & (scenes == one[0, 0] // 10)) for one in again]
    return ("1" if first[0][0] < first[1][0] else "2") if all(map(len, first)) else None


def reader(asked, length):
    assert all(len(one.tokens) + one.new_tokens <= length for one in asked)
    return [Outcome((f" {read(one)}" == one.answers[0],), "") for one in asked]


def table(answer, **changes):
    asked = {"frames": (16, 32), "samples": 40}
    return list(evaluate(answer, TOKENIZER, SCENES, LAYOUT, **asked | changes))


def test_who_sees_every_frame_knows_and_who_sees_eight_is_near_what_they_tell():
    rows = table(reader)
    keys = [(row["frames"], row["kind"], row["shown"]) for row in rows]
    assert keys == [(n, task, shown) for n in (16, 32) for task in TASKS for shown in (n, 8)]
    for row in rows:
        assert row["task"] == "video_qa" and row["n"] == 40 and row["chance"] == chance(row["kind"])
        if row["shown"] == row["frames"]:
            assert row["share"] == row["ideal"] == 1.0
        else:
            assert row["share"] < row["ideal"] < 1.0
    odd = {row["frames"]: row for row in rows if row["kind"] == "odd" and row["shown"] == 8}
    # The frame is among the eight in 8/N of the clips.
    assert all(row["low"] < 8 / frames < row["high"] for frames, row in odd.items())


def test_who_never_answers_gets_nothing():
    rows = table(lambda asked, length: [Outcome((False,), "")] * len(asked), frames=(16,))
    assert {row["share"] for row in rows} == {0.0} and rows[0]["low"] == 0 < rows[0]["high"]


@pytest.mark.parametrize("name", TASKS)
def test_clips_hold_what_is_asked_and_all_answers_come(name):
    made = [clip(name, SCENES, 16, seed) for seed in range(80)]
    answers = {one.answer for one in made}
    assert answers == set(map(str, range(1, {"odd": PARTS, "count": MOST, "order": 2}[name] + 1)))
    for one in made:
        assert one.frames.shape == (16, P) and len(one.again) == (2 if name == "order" else 0)
        scenes, counts = np.unique(one.frames[:, 0] // 10, return_counts=True)
        assert len(scenes) == (3 if name == "order" else 2) and counts.max() >= 12
    same = clip(name, SCENES, 16, 3)
    assert same.answer == made[3].answer and (same.frames == made[3].frames).all()


def test_eight_frames_are_the_middles_of_equal_parts():
    made = clip("odd", SCENES, 32, 0)
    asked = prompt("odd", TOKENIZER, LAYOUT, made, shown=8, new_tokens=8)
    (video,), text = videos(asked)
    assert (video == made.frames[2::4]).all() and asked.answers == (f" {made.answer}",)
    assert text.startswith(f"You are a helpful assistant. USER: {TASKS['odd']}\n") and text.endswith(
        " ASSISTANT:"
    )


def test_scenes_are_not_changed():
    before = [scene.copy() for scene in SCENES]
    table(reader, frames=(16,), samples=5)
    assert all((one == other).all() for one, other in zip(before, SCENES, strict=True))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"tasks": ("odd", "even")}, "tasks: 'even' is not known; choose from odd, count, order"),
        ({"frames": (16, 20)}, "frames: 20 is not a multiple of 8"),
        ({"frames": (8,)}, "frames: 8 is not a multiple of 8 above it"),
    ],
)
def test_what_cannot_be_asked_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        table(reader, **changes)


def test_too_few_scenes_are_refused():
    with pytest.raises(UserError, match="data: video_qa needs 3 clips and there are 2"):
        list(evaluate(reader, TOKENIZER, SCENES[:2], LAYOUT, frames=(16,), samples=1))
