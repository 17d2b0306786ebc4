import pytest
from hypothesis import given, strategies

from lwm.data.task_mixture import composition, rows_by_kind
from lwm.errors import UserError

KINDS = {"look": "classify", "say": "caption", "spell": "caption", "hear": "speech", "turn": "translate"}


def test_rows_are_whole_and_follow_the_weights():
    assert composition({"look": 1, "say": 1, "hear": 2}, 8) == {"look": 2, "say": 2, "hear": 4}
    assert composition({"look": 0.5, "say": 0, "hear": 0.25}, 4) == {"look": 3, "hear": 1}
    assert composition({"a": 1, "b": 1, "c": 1}, 4) == {"a": 2, "b": 1, "c": 1}, "the first named first"


@given(strategies.lists(strategies.floats(0.5, 2), min_size=1, max_size=8), strategies.integers(40, 90))
def test_no_task_is_a_row_away_from_its_share(weights, batch_size):
    mixture = {str(at): weight for at, weight in enumerate(weights)}
    rows = composition(mixture, batch_size)
    assert sum(rows.values()) == batch_size
    for task, weight in mixture.items():
        assert abs(rows[task] - batch_size * weight / sum(weights)) < 1


@pytest.mark.parametrize(
    ("mixture", "batch_size", "message"),
    [
        ({"look": -1, "say": 2}, 8, "mixture: weight -1 of look is not 0 or more"),
        ({"look": float("nan")}, 8, "mixture: weight nan of look is not 0 or more"),
        ({"look": float("inf")}, 8, "mixture: weight inf of look is not 0 or more"),
        ({"look": 0, "say": 0.0}, 8, "has no task of positive weight"),
        ({}, 8, "mixture: {} has no task of positive weight"),
        ({"look": 1, "say": 99}, 8, "mixture: look of weight 1 gets none of 8 rows; raise batch_size"),
        ({"look": 1}, 0, "batch_size: 0 is less than one row"),
    ],
)
def test_what_makes_no_batch_is_named(mixture, batch_size, message):
    with pytest.raises(UserError) as error:
        composition(mixture, batch_size)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_rows_of_a_kind_stand_in_the_order_of_the_tasks_with_filler_behind():
    rows = {"turn": 1, "spell": 2, "say": 3}
    found = rows_by_kind(rows, KINDS, list(KINDS), 4)
    assert found == {
        "caption": ["say"] * 3 + ["spell"] * 2 + [None] * 3,
        "translate": ["turn"] + [None] * 3,
    }
    assert rows_by_kind(rows, KINDS, list(KINDS))["caption"] == ["say"] * 3 + ["spell"] * 2
