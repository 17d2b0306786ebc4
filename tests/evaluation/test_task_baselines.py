import math

import pytest

from lwm.evaluation.task_baselines import (
    copy_baselines,
    label_baselines,
    text_baselines,
    unigram_nats,
    unigram_words_right,
)

pytest.importorskip("sacrebleu")


def test_labels_are_answered_by_the_commonest():
    found = dict(label_baselines(["a", "b", "b", "c"], ["b", "b", "a", "b", "d"]))
    assert found["majority_accuracy"] == 3 / 5
    nats = [math.log(8 / 3)] * 3 + [math.log(8 / 2), math.log(8 / 1)]  # counts 2, 3, 2, 1 of 8 with one added
    assert found["frequency_nats"] == pytest.approx(sum(nats) / 5)


def test_of_equals_the_first_in_the_alphabet_is_the_commonest():
    assert dict(label_baselines(["z", "y"], ["y"]))["majority_accuracy"] == 1


def test_texts_are_answered_by_nothing_and_by_the_commonest():
    found = dict(text_baselines(["one", "two", "two"], ["two", "four"]))
    assert found["empty_error_rate"] == 1
    assert found["commonest_exact_match"] == 0.5
    assert found["commonest_error_rate"] == pytest.approx(4 / 7)  # "two" to "four"
    assert 0 < found["commonest_chrf"] < 100


def test_a_copy_of_the_source_is_scored_like_an_answer():
    found = dict(copy_baselines(["Paris", "sun"], ["Paris", "sol"]))
    assert found["copy_exact_match"] == 0.5 and found["copy_error_rate"] == pytest.approx(2 / 8)
    assert set(found) == {f"copy_{score}" for score in ("exact_match", "error_rate", "chrf", "bleu")}


def test_unigrams_are_counted_in_training():
    found = unigram_nats([[3, 3], [4, 2]], [[3, 2], [5]], 6)  # counts 1 1 2 3 2 1 of 10 with one added
    assert found == pytest.approx((math.log(10 / 3) + math.log(10 / 2) + math.log(10 / 1)) / 3)


def test_the_commonest_id_of_training_is_right_wherever_it_stands():
    assert unigram_words_right([[3, 3], [4, 2]], [[3, 2], [5, 3]]) == 0.5
