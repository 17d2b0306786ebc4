"""Scores of answers about pictures, and of where pictures are opened."""

import numpy as np
import pytest

from lwm.evaluation.page_scores import Opened, placement_f1, words_f1


def test_placement_counts_what_is_missed_and_what_is_too_much():
    found = placement_f1(Opened(np.array([2, 1]), np.array([3, 1]), np.array([2, 3])))
    assert found.value == pytest.approx(2 * 3 / (4 + 5))
    assert found.low < found.value < found.high
    assert placement_f1(Opened(np.array([0]), np.array([0]), np.array([3]))).value == 0
    with pytest.raises(ValueError, match="wanted_B"):
        placement_f1(Opened(np.array([0]), np.array([2]), np.array([0])))


def test_words_count_once_each_and_without_case_and_stops():
    assert words_f1(["A cow."], ["a COW"]).value == 1
    assert words_f1(["cow cow", ""], ["a cow", "dog"]).value == pytest.approx(0.5 * 2 / 4)
