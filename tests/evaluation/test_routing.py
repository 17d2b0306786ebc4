import numpy as np
import pytest

from lwm.evaluation.routing import mutual_information, routing


def test_mutual_information_of_an_expert_for_each_task_and_of_none():
    assert mutual_information(5.0 * np.eye(4)) == pytest.approx(np.log(4))
    assert mutual_information(np.outer([1.0, 3.0], [2.0, 1.0, 4.0])) == pytest.approx(0, abs=1e-12)
    halves = np.array([[1.0, 0.0], [1.0, 2.0]])  # p = 1/4, 0, 1/4, 1/2; margins 1/4, 3/4 and 1/2, 1/2
    wanted = np.log(2) / 4 + np.log(2 / 3) / 4 + np.log(4 / 3) / 2
    assert mutual_information(halves) == pytest.approx(wanted)
    assert mutual_information(np.zeros((2, 2))) == 0


def test_experts_that_know_of_tasks_stand_out_from_permutations():
    rng = np.random.default_rng(0)
    task_B = np.repeat([3, 7], 30)
    counts_BE = rng.integers(1, 9, (60, 4)) * np.where(task_B[:, None] == 3, [9, 9, 1, 1], [1, 1, 9, 9])
    found = routing(task_B, counts_BE, draws=100)
    assert found.low <= found.nats <= found.high and found.nats > 2 * found.bound > 0
    assert found.p == pytest.approx(1 / 101) and found.rows == 60


def test_experts_that_do_not_know_of_tasks_do_not():
    """Rows of their own likes, alike in both tasks: many tokens a row must not pass for many samples."""
    rng = np.random.default_rng(1)
    likes_BE = rng.dirichlet(np.full(4, 0.3), 80)
    counts_BE = np.stack([rng.multinomial(500, likes_E) for likes_E in likes_BE])
    found = routing(np.arange(80) % 2, counts_BE, draws=100)
    assert found.p > 0.05 and found.nats < found.bound and found.null < found.bound


def test_rows_without_a_choice_are_left_out_and_tasks_weigh_the_same():
    counts_BE = np.array([[1, 0], [0, 100], [0, 0]])
    found = routing(np.array([0, 1, 1]), counts_BE, draws=5)
    assert found.rows == 2 and found.nats == pytest.approx(np.log(2))
