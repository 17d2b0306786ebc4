import itertools
import math

import numpy as np
import pytest

from lwm.data.clips import (
    FRAME_BITS,
    MOST,
    MOST_FRAMES,
    PARTS,
    TASKS,
    chance,
    check_clips,
    compose,
    even_places,
    frames_of_row,
    ideal,
)
from lwm.errors import UserError
from lwm.ops import masks

LENGTHS = [6, 7, 8, 90]


def enumerated(name, count, shown):
    """The best share by counting all clips: for each thing that can be seen, the commonest answer."""
    places = [(2 * k + 1) * count // (2 * shown) for k in range(shown)]
    seen = {}
    if name == "odd":
        clips = [((place,), place * PARTS // count) for place in range(count)]
        weights = [1 / count] * count
    elif name == "order":
        clips = [(pair, pair[0] < pair[1]) for pair in itertools.permutations(range(count), 2)]
        weights = [1 / len(clips)] * len(clips)
    else:
        clips = [(c, k) for k in range(1, MOST + 1) for c in itertools.combinations(range(count), k)]
        weights = [1 / MOST / math.comb(count, k) for _, k in clips]
    for (odd, answer), weight in zip(clips, weights, strict=True):
        # Of pairs it is known which frame is which; of counted frames it is not.
        view = tuple(place if place in places else None for place in odd)
        view = tuple(sorted(p for p in view if p is not None)) if name == "count" else view
        seen.setdefault(view, {}).setdefault(answer, 0.0)
        seen[view][answer] += weight
    return sum(max(answers.values()) for answers in seen.values())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("shown", [3, 8])
def test_the_ideal_is_the_best_that_can_be_made_of_what_is_shown(name, shown):
    assert ideal(name, 16, shown) == pytest.approx(enumerated(name, 16, shown))
    assert ideal(name, 16, 16) == 1.0
    assert chance(name) < ideal(name, 64, 8) < ideal(name, 16, 8) < 1


def test_eight_of_sixty_four_frames_tell_little_of_the_odd_one():
    assert ideal("odd", 64, 8) == pytest.approx(1 / 8 + 7 / 8 / 8)


@pytest.mark.parametrize("name", TASKS)
def test_a_clip_is_one_scene_with_odd_frames_of_others(name):
    answers = set()
    for seed in range(80):
        made = compose(name, LENGTHS, 16, seed)
        scenes, counts = np.unique(made.frames[:, 0], return_counts=True)
        base = scenes[counts.argmax()]
        odd = np.flatnonzero(made.frames[:, 0] != base)
        assert (made.frames[:, 1] < np.take(LENGTHS, made.frames[:, 0])).all()
        steps = made.frames[:, 1] - np.arange(16)
        assert len(np.unique(np.delete(steps, odd) % LENGTHS[base])) == 1, "consecutive, round and round"
        if name == "odd":
            (place,) = odd
            expected = place * PARTS // 16 + 1
        elif name == "count":
            expected = len(odd)
        else:
            first, second = (
                np.flatnonzero((made.frames == one).all(axis=1) & (made.frames[:, 0] != base))[0]
                for one in made.again
            )
            expected = 1 if first < second else 2
        assert made.answer == str(expected) and len(made.again) == (2 if name == "order" else 0)
        answers.add(made.answer)
    assert answers == set(map(str, range(1, {"odd": PARTS, "count": MOST, "order": 2}[name] + 1)))


def test_a_clip_is_a_function_of_its_seed():
    one, same, other = (compose("order", LENGTHS, 16, seed) for seed in ("7 1", "7 1", "71"))
    assert (one.frames == same.frames).all() and (one.again == same.again).all()
    assert (one.frames != other.frames).any()


def test_frames_at_even_distances_are_the_middles_of_equal_parts():
    assert even_places(32, 8).tolist() == list(range(2, 32, 4))
    assert even_places(12, 12).tolist() == list(range(12))
    assert even_places(12, 5).tolist() == [1, 3, 6, 8, 10]


def test_frames_of_a_row_are_filled_up_to_the_ring():
    assert frames_of_row({"odd": 1.0, "order": 0.0}, 16, 0, 1) == 16
    assert frames_of_row({"odd": 1.0, "order": 2.0}, 16, 0, 3) == 54
    assert frames_of_row({"order": 2.0}, 16, 8, 1, ring=4) == 12


def test_numbers_of_frames_are_read_as_they_are_written():
    assert FRAME_BITS == masks.FRAME_BITS


def test_the_last_frame_of_the_last_clip_is_an_int32():
    assert MOST_FRAMES + 2 < 1 << FRAME_BITS
    check_clips({"order": 1.0}, MOST_FRAMES, 8, (1 << 15) - 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {}}, "mixture: {} asks nothing; write for example {'odd': 1.0}"),
        ({"mixture": {"odd": 0.0}}, "mixture: {'odd': 0.0} asks nothing"),
        ({"mixture": {"odd": 1.0, "order": -1.0}}, "asks nothing"),
        (
            {"mixture": {"text": 1.0}},
            "mixture: there is no question 'text'; choose from odd, count, order",
        ),
        ({"frames": 20}, "frames: 20 is not a multiple of 8 above it; use for example 64"),
        ({"frames": 8}, "frames: 8 is not a multiple of 8 above it"),
        ({"frames": 0, "mixture": {"count": 1}}, "frames: 0 make no clip; use more than 4"),
        ({"frames": -8, "mixture": {"order": 1}}, "frames: -8 make no clip"),
        ({"frames": 1 << 16}, "frames: 65536 make no clip; use more than 4 and at most 65533"),
        ({"shown": 17}, "shown: 17 of 16 frames; use 1 to 16, or 0 for all"),
        ({"shown": -1}, "shown: -1 of 16 frames"),
        ({"questions": 0}, "questions: 0 in a row; use 1 to 32767"),
    ],
)
def test_what_makes_no_question_is_named(changes, message):
    with pytest.raises(UserError) as error:
        check_clips(**({"mixture": {"odd": 1.0}, "frames": 16, "shown": 8, "questions": 1} | changes))
    assert message in str(error.value) and "\n" not in str(error.value)
