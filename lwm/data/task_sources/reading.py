"""What the reader of a source is told, and how it says that a package or a file is not as it should be."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lwm.errors import UserError


def stop(error: UserError) -> None:
    """What is done about a damaged file unless somebody wants it skipped."""
    raise error


class Reading(NamedTuple):
    """folder: the packages, each unpacked in a folder of its name. resolution: side R of images in pixels.
    rate: of waveforms, samples a second. damaged: is called with a UserError naming a damaged file, which is
    passed over if the call returns. library: Python's standard library, "" for that of the running Python.
    """

    folder: str
    resolution: int = 64
    rate: int = 8000
    damaged: Callable[[UserError], None] = stop
    library: str = ""

    def find(self, package: str, pattern: str) -> Path:
        """Returns the first path inside an unpacked package that fits `pattern`.

        Raises UserError if there is none.
        """
        found = sorted((Path(self.folder) / package).glob(pattern))
        if not found:
            raise UserError(
                f"sources: {self.folder} has no {package}/{pattern}; run launch/task_sources.sh {self.folder}"
            )
        return found[0]


def one_line(text: str) -> str:
    """Returns text with every run of white space, no-break spaces included, as one space."""
    return re.sub(r"\s+", " ", text).strip()
