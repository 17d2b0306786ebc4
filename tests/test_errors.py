"""The lines of a mistake stay lines, few and short, whatever is in them."""

from lwm.errors import LONGEST, TOGETHER, UserError


def test_a_line_stays_one_that_can_be_printed():
    shown = str(UserError("file: 'a\nb\x1b[2J' is odd; rename it"))
    assert shown == "file: 'a b [2J' is odd; rename it"


def test_of_a_long_line_the_middle_is_left_out():
    shown = str(UserError("begin" + "x" * 5000 + "end"))
    assert len(shown) <= LONGEST and shown.startswith("begin") and shown.endswith("end") and " … " in shown


def test_of_many_lines_the_first_are_shown_and_the_others_counted():
    few = [f"field {index}: missing" for index in range(20)]
    assert str(UserError(*few)).splitlines() == few
    *shown, last = str(UserError(*(f"field {index}: missing" for index in range(500)))).splitlines()
    assert shown == [f"field {index}: missing" for index in range(len(shown))] and len(shown) > 50
    assert last == f"and {500 - len(shown)} more" and len("\n".join(shown)) <= TOGETHER


def test_even_the_longest_line_is_shown():
    assert str(UserError("x" * 5000, "second")).splitlines()[-1] == "second"
