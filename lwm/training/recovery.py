"""Which checkpoint to go on with: the newest one that is whole. Damaged ones are told and passed over.

Nothing damaged is deleted: training that comes to its step again moves it aside, to <step>.damaged, where
somebody may look at it; samplers leave it where it is.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import orbax.checkpoint as ocp
from etils import epath

from lwm.errors import UserError
from lwm.training.decision import together
from lwm.training.folders import first_free
from lwm.training.seals import damage

Say = Callable[[str], None]


class Damaged(NamedTuple):
    """A checkpoint and what is wrong with it."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} is damaged: {self.what}"


class Standing(NamedTuple):
    """Where a run stands: index of its stage, newest whole step there (0 = none), damaged ones."""

    stage: int
    step: int
    damaged: Sequence[Damaged] = ()


def saved_steps(folder: epath.Path) -> list[int]:
    """The steps of the complete checkpoints in a stage's folder, damaged or not, in order. Writes nothing."""
    found = ocp.path.step.standard_name_format().find_all(folder) if folder.exists() else ()
    return sorted(checkpoint.step for checkpoint in found)


def newest_whole(
    folder: epath.Path, parts: Sequence[str] = (), say: Say = lambda line: None
) -> tuple[int | None, list[Damaged]]:
    """The newest step in a stage's folder whose files are what was saved, and the damaged ones after it.

    Args:
      parts: as for `seals.damage`; () = all, and then checkpoints before it that Orbax stumbles over count as
        damaged, too: it looks at each when it opens the folder.
      say: is told of each checkpoint before it is read.
    """
    newest, damaged = None, []
    for step in reversed(saved_steps(folder)):
        path = folder / str(step)
        what = None if parts else _stumbles(folder, step)
        if newest is None and what is None:
            say(f"{path}: reading it once to compare it with its seal")
            what = damage(path, parts)
            newest = step if what is None else None
        if what is not None:
            damaged.append(Damaged(str(path), what))
    return newest, damaged


def _stumbles(folder: epath.Path, step: int) -> str | None:
    """As `seals.damage`, of the file that Orbax writes after the seal."""
    try:
        _ = ocp.path.step.standard_name_format().find_step(folder, step).commit_timestamp
    except (ValueError, OverflowError, TypeError, AttributeError, KeyError, OSError):
        return "_CHECKPOINT_METADATA is broken"
    return None


def whole_step(folder: epath.Path) -> int:
    """The newest step whose parameters are whole; the damaged ones after it are told on stderr.

    To be called by all hosts; the first one looks.

    Raises:
      UserError: there is none.
    """

    def decide() -> int:
        step, damaged = newest_whole(folder, ("params", "about"))
        if step is None:
            found = "; ".join(map(str, damaged)) or f"{folder} has no checkpoint"
            raise UserError(f"{found}; no other one of this stage is left: put a copy of one back")
        for checkpoint in damaged:
            print(f"{checkpoint}; passed over for step {step}", file=sys.stderr, flush=True)
        return step

    return together(decide)


def find_standing(folders: Sequence[epath.Path], say: Say) -> Standing:
    """Where training goes on.

    With the newest whole checkpoint of the last stage that has any; else with that of the stage before, so
    that the last stage begins again.

    Args:
      folders: of all stages, in their order.

    Raises:
      UserError: there are checkpoints, but none of these two stages is whole: to start anew, or to repeat
        more than a stage, is for somebody to decide.
    """
    begun = [index for index, folder in enumerate(folders) if saved_steps(folder)]
    if not begun:
        return Standing(0, 0)
    damaged = []
    for index in range(begun[-1], max(begun[-1] - 2, -1), -1):
        step, found = newest_whole(folders[index], say=say)
        damaged += found
        if step is not None:
            return Standing(index, step, damaged)
    raise UserError(
        f"{'; '.join(map(str, damaged))}; no whole checkpoint is left to go on with: put a copy of one back, "
        "or begin anew with another --workdir"
    )


def move_aside(standing: Standing, say: Say) -> None:
    """Moves damaged checkpoints away from their steps, for Orbax not to meet them and to save there again."""
    for path, what in standing.damaged:
        path = epath.Path(path)
        names = (f"{path.name}.damaged{'' if n == 1 else f'.{n}'}" for n in itertools.count(1))
        kept = first_free(path.parent, names)
        path.rename(kept)
        say(f"{Damaged(path, what)}; kept as {kept.name}, the newest whole one is taken instead")
