"""Where each host of a run is: WORKDIR/hosts/<index>.json, rewritten every few seconds; read without JAX."""

from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from lwm import json_text

SILENT = 60.0  # seconds without a sign of life after which a host is said to be silent


class Beat(NamedTuple):
    """What a host does.

    index: of the host. host: its name. stage: name and place of the stage. step: the last one begun.
    doing: in that step. since: when it began with that. time: when it said so; both in seconds since 1970.
    """

    index: int
    host: str
    stage: str
    place: int
    step: int
    doing: str
    since: float
    time: float

    def __str__(self) -> str:
        return f"host {self.index} ({self.host}) at step {self.step} of {self.stage}, {self.doing}"


def read_beats(workdir: epath.PathLike) -> list[Beat]:
    """Of all hosts that have a readable file, by index."""
    folder, found = epath.Path(workdir) / "hosts", []
    for path in folder.glob("*.json") if folder.exists() else ():
        try:
            found.append(Beat(**json_text.read(path)))
        except (ValueError, TypeError, OSError):
            continue  # from another version, or gone
    return sorted(found)


def laggards(beats: Sequence[Beat], hosts: int, now: float) -> list[str]:
    """The hosts that are behind the foremost one, silent, or missing, each with why; "" none."""
    by_index, told = {beat.index: beat for beat in beats if beat.index < hosts}, []
    foremost = max(((beat.place, beat.step) for beat in by_index.values()), default=(0, 0))
    for index in range(hosts):
        beat = by_index.get(index)
        if beat is None:
            told.append(f"host {index} (never heard of)")
        elif now - beat.time > SILENT:
            told.append(f"{beat}, silent for {now - beat.time:.0f} s")
        elif (beat.place, beat.step) < foremost:
            told.append(str(beat))
    return told
