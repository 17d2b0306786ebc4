"""The arms of `multimodel.py`: which tasks a run learns from, with how many rows in a step, and from what.

joint                    all eight tasks
single_TASK              one task with the rows that it has in "joint": the same updates
compute_TASK             one task with the compute of "joint"
shuffled                 as "joint", but only tasks with little data keep their labels
right_TASK               as "joint", but only one task with little data keeps its labels
without_BLOCK            as "joint", without experts, attention or convolutions
few_TASK_COUNT_alone     COUNT samples of a task: alone, beside pictures (_images), beside all others (_all)
images_TASK              all samples of a task, beside pictures: the end of the same curve
long                     all eight tasks for four times as many steps, with four times as many rows of the
                         translations in each: no comparison, but how far one run of minutes gets with all
"""

from typing import NamedTuple

TASKS = {
    "stamp_class": "classify",
    "stamp_caption": "caption",
    "spanish_english": "translate",
    "english_spanish": "translate",
    "english_french": "translate",
    "french_english": "translate",
    "speech": "speech",
    "parsing": "translate",
}
LITTLE = ("stamp_class", "stamp_caption", "speech")  # fewer than a thousand samples
PICTURES = ("stamp_class", "stamp_caption")
TRANSLATIONS = ("spanish_english", "english_spanish", "english_french", "french_english")
# Of a task in a step of "joint". A row of speech takes as long as seven of text, and there are few of them.
ROWS = {"classify": 2, "caption": 2, "speech": 1, "translate": 4}
# GFLOP of a row in a training step by formula (lwm/compilation/task_flops.py): what compute is counted in.
COST = {"classify": 0.257, "caption": 0.392, "speech": 0.365, "translate": 0.187}
FEW = (("parsing", 300), ("speech", 100))


class Arm(NamedTuple):
    """rows: by task, of a step. scored: what it is asked about. times: as many steps as the others have."""

    rows: dict[str, int]
    scored: tuple[str, ...]
    without: str = ""
    shuffled: tuple[str, ...] = ()
    at_most: dict[str, int] = {}
    times: int = 1


def compute(arm: Arm) -> float:
    """Of a step, in steps of "joint"."""
    return sum(rows * COST[TASKS[task]] for task, rows in arm.rows.items()) / _JOINT_COST


def _rows(*tasks: str) -> dict[str, int]:
    return {task: ROWS[TASKS[task]] for task in tasks}


def _joint(**changes) -> Arm:
    return Arm(_rows(*TASKS), tuple(TASKS))._replace(**changes)


def _long() -> Arm:
    rows = {task: 4 * ROWS["translate"] for task in TRANSLATIONS}
    return _joint(rows=_rows(*TASKS) | rows, times=4)


def _shuffled(right: tuple[str, ...]) -> Arm:
    return _joint(scored=right, shuffled=tuple(task for task in TASKS if task not in right))


def _few(task: str, count: int) -> dict[str, Arm]:
    beside = {"alone": (task,), "images": (task, *PICTURES), "all": tuple(TASKS)}
    return {
        f"few_{task}_{count}_{what}": Arm(_rows(*tasks), (task,), at_most={task: count})
        for what, tasks in beside.items()
    }


_JOINT_COST = sum(ROWS[kind] * COST[kind] for kind in TASKS.values())
# In the order in which they are run: what others are compared with first.
ARMS = {
    "joint": _joint(),
    **{f"single_{task}": Arm(_rows(task), (task,)) for task in TASKS},
    "shuffled": _shuffled(LITTLE),
    **{f"without_{what}": _joint(without=what) for what in ("experts", "attention", "convolution")},
    **{name: arm for task, count in FEW for name, arm in _few(task, count).items()},
    "images_parsing": Arm(_rows("parsing", *PICTURES), ("parsing",)),
    "images_speech": Arm(_rows("speech", *PICTURES), ("speech",)),
    **{f"compute_{task}": Arm({task: round(_JOINT_COST / COST[TASKS[task]])}, (task,)) for task in TASKS},
    **{f"right_{task}": _shuffled((task,)) for task in LITTLE},
    "long": _long(),
}
