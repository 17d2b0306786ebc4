"""The judge of pictures learns what can be seen, from pictures that have an answer."""

import numpy as np
import pytest

from lwm.evaluation.picture_judge import FEATURES, train_judge


def squares(count, seed):
    """Noise, blue or red, brighter above or below: pictures, and the two as numbers."""
    rng = np.random.default_rng(seed)
    colours, halves = rng.integers(0, 2, count), rng.integers(0, 2, count)
    pictures = rng.integers(0, 60, (count, 8, 8, 3), dtype=np.uint8)
    for picture, colour, half in zip(pictures, colours, halves, strict=True):
        picture[4 * half : 4 * half + 4, :, 2 * colour] += 150
    return pictures, colours, halves


def test_judge_answers_both_questions_about_pictures_that_it_has_not_seen():
    pictures, colours, halves = squares(120, seed=0)
    some = np.where(np.arange(120) < 60, halves, -1)  # of the others nobody said
    judge = train_judge(pictures, {"colour": colours, "half": some}, steps=60)
    pictures, colours, halves = squares(40, seed=1)
    found = judge.answers(pictures)
    assert np.mean(found["colour"] == colours) == 1 and np.mean(found["half"] == halves) > 0.9
    assert judge.features(pictures).shape == (40, FEATURES)


def test_judge_needs_answers_to_its_pictures():
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    for answers in ({"what": np.zeros(3, int)}, {"what": np.array([-1, -1])}):
        with pytest.raises(ValueError, match="'what' has"):
            train_judge(pictures, answers)
    with pytest.raises(ValueError, match="nothing to learn"):
        train_judge(pictures, {})
