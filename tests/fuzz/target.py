"""What a parser is given, and how it is called."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


def nothing(folder: Path) -> None:
    """Nothing has to lie around the file."""


def as_it_is(content: bytes) -> bytes:
    """What was spoiled is the file."""
    return content


class Target(NamedTuple):
    """One parser.

    Attributes:
      name: of its folder of cases.
      file: where an input lies, relative to the sandbox.
      seeds: makes well-formed contents, small ones.
      read: reads the file as a user's command would; UserError is the only exception that may leave it.
      share: of all inputs, by how fast it is.
      lay: puts what has to lie around the file into the sandbox, once.
      wrap: puts what was spoiled into a container that is whole; cases are kept as they are wrapped.
      many: refusals may have a line for each of several mistakes.
    """

    name: str
    file: str
    seeds: Callable[[], Sequence[bytes]]
    read: Callable[[Path], object]
    share: int = 4
    lay: Callable[[Path], None] = nothing
    wrap: Callable[[bytes], bytes] = as_it_is
    many: bool = False
