"""How many rows of a step each task gets: the same in every step, so that a step has one shape."""

import math
from collections.abc import Mapping, Sequence

from lwm.data.task_records import KINDS
from lwm.errors import UserError


def composition(mixture: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Returns rows by task, `batch_size` in all, as near to the weights as whole rows can be.

    By largest remainder: each task gets the whole rows of its share, and those that are left go to the
    largest fractions, the first named first. Weights need not sum to one; those of 0 are left out.

    Raises UserError if a weight is negative or no number, all are 0, or a task of positive weight gets
    no row.
    """
    for task, weight in mixture.items():
        if not (weight >= 0 and math.isfinite(weight)):
            raise UserError(f"mixture: weight {weight} of {task} is not 0 or more; give shares of the rows")
    weights = {task: weight for task, weight in mixture.items() if weight}
    total = sum(weights.values())
    if not weights:
        raise UserError(
            f"mixture: {dict(mixture)} has no task of positive weight; give one a share of the rows"
        )
    if batch_size < 1:
        raise UserError(f"batch_size: {batch_size} is less than one row; give at least {len(weights)}")
    shares = {task: weight / total * batch_size for task, weight in weights.items()}
    rows = {task: math.floor(share) for task, share in shares.items()}
    left = batch_size - sum(rows.values())
    for task in sorted(shares, key=lambda task: rows[task] - shares[task])[:left]:
        rows[task] += 1
    for task, count in rows.items():
        if not count:
            raise UserError(
                f"mixture: {task} of weight {weights[task]} gets none of {batch_size} rows; raise "
                "batch_size or its weight"
            )
    return rows


def rows_by_kind(
    rows: Mapping[str, int], kinds: Mapping[str, str], tasks: Sequence[str], multiple: int = 1
) -> dict[str, list[str | None]]:
    """Returns for each kind that occurs the task of each of its rows, None for a filler row at the end.

    rows: by task, of `composition`. kinds: the kind of each task. tasks: the order of the rows in a kind.
    multiple: what the rows of each kind are filled up to, such as the devices or hosts that share them.
    """
    layout = {}
    for kind in KINDS:
        own = [task for task in tasks if task in rows and kinds[task] == kind for _ in range(rows[task])]
        if own:
            layout[kind] = own + [None] * (-len(own) % multiple)
    return layout
