"""What the rows of `multimodel.py` say of the paper's pattern, in words.

    python -m experiments.multimodel_verdict

The pattern (1706.05137, tables 2 and 3): tasks with little data gain from being learned beside others, and
others lose little. Measured in nats a target, of one seed against the same seed, as the mean over the tasks
of a group; intervals are Student's 95 % over seeds. "Little" is no more than the others gain.
"""

import argparse
from collections.abc import Iterator, Sequence

from experiments.multimodel_arms import LITTLE, TASKS
from experiments.multimodel_tables import CONTROLS, RESULTS, Arms, Rows, by_seed, joint, read

MUCH = tuple(task for task in TASKS if task not in LITTLE)


def gain(rows: Rows, tasks: Sequence[str], arm: Arms, other: Arms) -> list[float]:
    """The mean over tasks of the nats by which `arm` of the task is better than `other`, for each seed.

    A seed that a task has not been trained with in both is left out.
    """
    ours = [by_seed(rows, arm(task), task, "nats", other(task)) for task in tasks]
    theirs = [by_seed(rows, other(task), task, "nats", arm(task)) for task in tasks]
    seeds = [seed for seed in ours[0] if all(seed in own for own in (*ours, *theirs))]
    return [
        sum(their[seed] - our[seed] for our, their in zip(ours, theirs, strict=True)) / len(tasks)
        for seed in seeds
    ]


def verdict(little: Sequence[float], much: Sequence[float]) -> str:
    """Of the pattern, from the gains by seed of both groups of tasks."""
    from lwm.evaluation.intervals import student

    if min(len(little), len(much)) < 2:
        return "OPEN: fewer than two seeds"
    (low, high), (worst, best) = student(little), student(much)
    mean = sum(little) / len(little)
    if high < 0:
        return "REFUTED: tasks with little data lose"
    if low <= 0:
        return "OPEN: the interval of the tasks with little data holds 0"
    if best < -mean:
        return "REFUTED: others lose more than tasks with little data gain"
    if worst <= -mean:
        return "OPEN: others may lose more than tasks with little data gain"
    return "CONFIRMED: tasks with little data gain" + (
        ", and so do others" if worst > 0 else "; others lose less"
    )


def lines(rows: Rows) -> Iterator[str]:
    """The verdicts, and what they rest on."""
    for how, other in (("equal updates of each task", "single_{}"), ("equal compute", "compute_{}")):
        found = [gain(rows, tasks, joint, other.format) for tasks in (LITTLE, MUCH)]
        yield f"{how}: {verdict(*found)}"
        for tasks, own in zip((LITTLE, MUCH), found, strict=True):
            yield f"  {', '.join(tasks)}: {told(own)}"
    for others, arm in CONTROLS.items():
        yield f"control, tasks with little data, labels of {others} tasks dealt out anew:"
        yield f"  over alone: {told(gain(rows, LITTLE, arm, 'single_{}'.format))}"
        yield f"  right labels over these: {told(gain(rows, LITTLE, joint, arm))}"


def told(values: Sequence[float]) -> str:
    """Mean and interval of a gain."""
    from lwm.evaluation.intervals import student

    if len(values) < 2:
        return f"{len(values)} seeds"
    low, high = student(values)
    return f"{sum(values) / len(values):+.3f} [{low:+.3f}, {high:+.3f}] nats a target, {len(values)} seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--input", default=str(RESULTS / "multimodel.csv"))
    print("\n".join(lines(read(parser.parse_args().input))))


if __name__ == "__main__":
    main()
