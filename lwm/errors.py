"""The one exception for mistakes that a user can mend."""

from collections.abc import Iterable


class UserError(Exception):
    """A bad flag, config field, file or folder.

    Its text is one line that names the field or file, the value found and the fix, or such a line for each of
    several mistakes; the verbs print it and exit with code 2 before anything is compiled or written.
    """


def refuse(lines: Iterable[str]) -> None:
    """Raises a `UserError` of these lines, each told once, if there are any."""
    if told := dict.fromkeys(" ".join(line.splitlines()) for line in lines):
        raise UserError("\n".join(told))
