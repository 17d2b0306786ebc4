"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """A bad flag, config field, file or folder.

    Its text is one line that names the field or file, the value found and the fix; the verbs print it and
    exit with code 2 before anything is compiled or written.
    """
