"""The one exception for mistakes that a user can mend."""

import itertools
from collections.abc import Iterable

LONGEST = 1000  # characters of a line
TOGETHER = 1900  # of all lines, but for the last one, which counts those left out


class UserError(Exception):
    """A bad flag, config field, file or folder.

    Its text is one line that names the field or file, the value found and the fix, or such a line for each of
    several mistakes; the verbs print it and exit with code 2 before anything is compiled or written.

    Values and names may come from anywhere. Whatever is in them, a line stays one: what cannot be printed is
    shown as a space, and of a line that is too long the middle is left out. Of very many lines the first are
    shown, and how many there are more.
    """

    def __init__(self, *lines: str):
        shown = [one_line(line) for line in lines]
        ends = itertools.accumulate(len(line) + 1 for line in shown)
        fitting = sum(end <= TOGETHER for end in ends)
        if fitting < len(shown):
            shown = [*shown[:fitting], f"and {len(shown) - fitting} more"]
        super().__init__("\n".join(shown))


def refuse(lines: Iterable[str]) -> None:
    """Raises a `UserError` of these lines, each told once, if there are any."""
    if told := dict.fromkeys(lines):
        raise UserError(*told)


def check_utf8(field: str, text: str) -> None:
    """Raises UserError unless UTF-8 can hold a text that `field` was given by a person.

    One from a shell may be any bytes: Python keeps what is not UTF-8 as halves of surrogate pairs.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{field}: {text!r} is no UTF-8 at character {error.start + 1}; write it in UTF-8"
        ) from None


def one_line(text: str) -> str:
    """A text as one line that can be printed, cut in its middle if it is longer than LONGEST."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text.strip())
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST // 2]} … {shown[-LONGEST // 3 :]}"
