"""The lines of a mistake stay lines, few and short, whatever is in them."""

import pytest

from lwm.errors import LONGEST, TOGETHER, UserError, check_utf8


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


def test_bytes_of_a_shell_that_are_no_text_are_told_with_their_place():
    check_utf8("prompt", "Aé\U0001f400")
    with pytest.raises(UserError) as error:
        check_utf8("prompt", "Aé\udcff")
    assert str(error.value) == r"prompt: 'Aé\udcff' is no UTF-8 at character 3; write it in UTF-8"


def test_even_the_longest_line_is_shown():
    assert str(UserError("x" * 5000, "second")).splitlines()[-1] == "second"
