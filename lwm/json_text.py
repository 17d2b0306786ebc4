"""JSON from elsewhere: whatever is wrong with it is a ValueError of one line; blocks of fields, checked."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from etils import epath

from lwm import bounds
from lwm.errors import UserError
from lwm.limits import faults, missing


def loads(text: str | bytes) -> Any:
    """The value of a JSON text in UTF-8, with or without the mark of its byte order.

    Raises:
      ValueError: it is not JSON, or JSON that nothing here could keep: larger than `bounds.JSON`, nested
        deeper than Python reads, numbers of thousands of digits, texts that UTF-8 cannot hold.
    """
    if len(text) > bounds.JSON:
        raise ValueError(f"{len(text)} bytes are more than {bounds.JSON}; cut it into smaller ones")
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            # Halves of pairs of surrogates: a whole pair has become one character.
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None
    return value


def read(path: epath.PathLike) -> Any:
    """The value in a JSON file; see `loads`."""
    path = epath.Path(path)
    if (size := path.stat().length) > bounds.JSON:
        raise ValueError(f"{size} bytes are more than {bounds.JSON}")
    return loads(path.read_bytes())


def read_block(path: epath.PathLike, *, fix: str) -> dict[str, Any]:
    """The block of fields in a JSON file. Raises UserError, which ends with `fix`, if it holds none."""
    try:
        value = read(path)
    except ValueError as error:
        raise UserError(f"{path}: no JSON ({error}); {fix}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: no block of fields; {fix}")
    return value


def check_fields(
    path: epath.PathLike,
    block: Mapping[str, Any],
    kinds: Mapping[str, Any],
    *,
    needs: Collection[str] = (),
    within: str = "",
) -> None:
    """Checks that fields are of their kinds, with their limits; see `lwm.limits.faults`.

    Args:
      path: of the file, or the file and the line, for messages.
      needs: fields that may not be missing, or null.
      within: "part." of which part of the file they are.

    Raises:
      UserError: naming the file and the first field that is wrong.
    """
    for name, kind in kinds.items():
        value, lines = block.get(name), []
        if value is not None:
            lines = list(faults(kind, value, within + name))
        elif name in needs:
            lines = [missing(within + name, kind)]
        if lines:
            raise UserError(f"{path}: {lines[0]}")
