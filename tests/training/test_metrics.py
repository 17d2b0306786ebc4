import json

import pytest

from lwm.training.metrics import MetricsLog, mean, read_rows, weighted


def test_each_metric_has_its_own_weight():
    batches = [
        {"denominator": 2.0, "loss": 1.0, "text_nll": 3.0, "text_tokens": 10.0},
        {"denominator": 6.0, "loss": 2.0, "text_nll": 5.0, "text_tokens": 30.0},
        {"denominator": 0.0, "loss": 0.0, "text_nll": 0.0, "text_tokens": 0.0},
    ]
    totals = {name: sum(weighted(batch)[name] for batch in batches) for name in batches[0]}
    assert mean(totals) == {"denominator": 8.0, "loss": 1.75, "text_nll": 4.5, "text_tokens": 40.0}


def test_what_is_reported_of_a_task_is_weighted_by_its_targets():
    batches = [
        {"denominator": 1.0, "loss": 1.0, "loss_en_es": 3.0, "accuracy_en_es": 0.5, "count_en_es": 10.0},
        {"denominator": 1.0, "loss": 2.0, "loss_en_es": 5.0, "accuracy_en_es": 1.0, "count_en_es": 30.0},
    ]
    totals = {name: sum(weighted(batch)[name] for batch in batches) for name in batches[0]}
    expected = {"loss": 1.5, "loss_en_es": 4.5, "accuracy_en_es": 0.875, "count_en_es": 40.0}
    assert mean(totals) == {"denominator": 2.0} | expected


def test_a_mean_over_nothing_is_zero():
    assert mean({"denominator": 0.0, "loss": 0.0}) == {"denominator": 0.0, "loss": 0.0}


def test_an_nll_without_its_count_is_weighted_like_a_loss():
    assert weighted({"denominator": 3.0, "nll": 2.0}) == {"denominator": 3.0, "nll": 6.0}


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for stage, step in [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]:
        log.append({"stage": stage, "step": step, "seconds": 10.0 * step})
    return log


@pytest.mark.parametrize(
    "earlier, stage, step, left, seconds",
    [
        (["a"], "b", 2, [("a", 1), ("a", 2), ("b", 1), ("b", 2)], 20.0),
        (["a"], "b", 0, [("a", 1), ("a", 2)], 20.0),
        ([], "a", 1, [("a", 1)], 10.0),
        ([], "a", 0, [], 0.0),
        (["a", "b"], "c", 0, [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)], 30.0),
    ],
)
def test_rewind(log, earlier, stage, step, left, seconds):
    assert log.rewind(earlier, stage, step) == seconds
    assert [(row["stage"], row["step"]) for row in read_rows(log.path)] == left


def test_a_line_cut_short_is_dropped(log):
    with log.path.open("a") as file:
        file.write('{"stage": "b", "st')
    assert len(read_rows(log.path)) == 5
    log.rewind(["a"], "b", 3)
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2, 1, 2, 3]


def test_no_file_yet(tmp_path):
    assert MetricsLog(tmp_path / "m.jsonl").rewind([], "a", 0) == 0.0
    assert read_rows(tmp_path / "m.jsonl") == []
