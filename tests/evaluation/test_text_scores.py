import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from lwm.errors import UserError
from lwm.evaluation import text_scores


def slow_distance(one, other):
    """The definition: try the three edits of the last items."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        slow_distance(one[:-1], other) + 1,
        slow_distance(one, other[:-1]) + 1,
        slow_distance(one[:-1], other[:-1]) + (one[-1] != other[-1]),
    )


@settings(max_examples=60, deadline=None)
@given(strategies.text("ab ñ", max_size=5), strategies.text("ab ñ", max_size=5))
def test_edit_distance_is_its_definition(one, other):
    assert text_scores.edit_distance(one, other) == slow_distance(one, other)


def test_edit_distance_of_long_texts_and_of_other_things():
    assert text_scores.edit_distance("kitten", "sitting") == 3
    assert text_scores.edit_distance("intention", "execution") == 5
    assert text_scores.edit_distance("x" * 300, "x" * 200 + "y" * 100) == 100
    assert text_scores.edit_distance(["the", "sun", "is"], ["a", "sun", "is"]) == 1


def test_error_rate_is_edits_over_wanted_characters():
    assert text_scores.character_error_rate(["abc", "x"], ["abd", "xyzuvwx"]) == pytest.approx(7 / 10)
    assert text_scores.character_error_rate(["", ""], ["four", "six"]) == 1
    assert text_scores.character_error_rate(["far too long"], ["no"]) > 1


def test_right_is_right_to_the_letter():
    assert text_scores.exact_match([" a b", "A b", "a  b", "a b\n"], ["a b"] * 4) == 0.5
    assert text_scores.accuracy([1, 2, 3, 4], [1, 2, 4, 3]) == 0.5


def test_chrf_and_bleu_are_those_of_the_papers():
    pytest.importorskip("sacrebleu")
    wanted = ["The cat sat on the mat today .", "In the beginning was the word ."]
    assert text_scores.chrf(wanted, wanted) == pytest.approx(100)
    assert text_scores.bleu(wanted, wanted) == pytest.approx(100)
    assert text_scores.chrf(["zzz", "qqq"], wanted) == 0 and text_scores.bleu(["zzz", "qqq"], wanted) == 0
    # Of six words the last is wrong, and with it one n-gram of each order: 5 of 6, 4 of 5, 3 of 4, 2 of 3.
    found, reference = ["a b c d e x"], ["a b c d e f"]
    expected = 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert text_scores.bleu(found, reference) == pytest.approx(expected)
    # One order of characters alone: "abcd" for "abce" has 3 of 4 characters, 2 of 3 pairs, 1 of 2, 0 of 1.
    precision = (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4
    assert text_scores.chrf(["abcd"], ["abce"]) == pytest.approx(100 * precision)


def test_without_sacrebleu_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    for score in (text_scores.chrf, text_scores.bleu):
        with pytest.raises(UserError, match=r'not installed, and .* needs it; pip install -e "\.\[scores\]"'):
            score(["a"], ["a"])


def test_log_perplexity_leaves_out_what_has_no_weight():
    nll = np.array([[1.0, 2.0, np.nan], [4.0, np.inf, 8.0]], np.float32)
    weights = np.array([[1, 1, 0], [0.5, 0, 0]], np.float32)
    assert text_scores.log_perplexity(nll, weights) == pytest.approx((1 + 2 + 2) / 2.5)
    with pytest.raises(UserError, match="weights: 6 that sum to 0"):
        text_scores.log_perplexity(nll, 0 * weights)


@pytest.mark.parametrize("score", ["accuracy", "exact_match", "character_error_rate", "chrf", "bleu"])
def test_answers_belong_to_questions(score):
    for found, wanted in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(UserError, match=f"answers: {len(found)} to {len(wanted)} questions"):
            getattr(text_scores, score)(found, wanted)
