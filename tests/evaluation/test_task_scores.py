import numpy as np
import pytest

from lwm.evaluation import task_scores
from lwm.evaluation.task_scores import Read, best_baselines, label_scores, text_answer_scores


def read(nats, right, count):
    return Read(np.asarray(nats, float), np.asarray(right), np.asarray(count))


def test_labels_have_their_share_and_their_nats():
    accuracy, nats = label_scores(read([0.5, 1.5, 1.0, 1.0], [1, 0, 1, 1], [1] * 4))
    assert (accuracy.name, accuracy.value, nats.name, nats.value) == ("accuracy", 0.75, "nats", 1.0)
    assert accuracy.low == pytest.approx(0.3006, abs=1e-3) and accuracy.high == pytest.approx(
        0.9544, abs=1e-3
    )
    assert 0.5 <= nats.low < 1 < nats.high <= 1.5


def test_texts_have_all_scores_with_intervals_around_them():
    pytest.importorskip("sacrebleu")
    wanted = ["a red cat sits", "two dogs run fast", "the sea", "one more line here"]
    found = ["a red cat sits", "two cats run fast", "", "one line more"]
    answers = read([4.0, 6.0, 8.0, 2.0], [4, 3, 0, 2], [4, 4, 4, 8])
    scores = {score.name: score for score in text_answer_scores(found, wanted, answers)}
    assert list(scores) == [name for name in task_scores.SCORES if name != "accuracy"]
    assert scores["exact_match"].value == 0.25 and scores["words_right"].value == 9 / 20
    assert scores["nats"].value == 1.0 and 0 < scores["error_rate"].value < 1
    assert 0 < scores["bleu"].value < scores["chrf"].value < 100
    for name in ("exact_match", "error_rate", "words_right", "nats"):
        assert scores[name].low < scores[name].value < scores[name].high


def test_the_best_baseline_of_each_score_is_the_one_to_beat():
    values = {"empty_error_rate": 1.0, "copy_error_rate": 0.7, "commonest_error_rate": 0.8}
    values |= {"copy_chrf": 12.0, "commonest_chrf": 8.0, "unigram_nats": 5.0, "majority_accuracy": 0.3}
    assert best_baselines(values) == {
        "error_rate": (0.7, "copied source"),
        "chrf": (12.0, "copied source"),
        "nats": (5.0, "unigram"),
        "accuracy": (0.3, "commonest label"),
    }
