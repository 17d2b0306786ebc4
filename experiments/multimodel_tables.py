"""Tables and the figure of `multimodel.py`, from its rows.

    python -m experiments.multimodel_tables      prints Markdown, draws experiments/results/multimodel.png

Intervals are Student's 95 % over seeds; arms are compared seed by seed, and "gain" is positive for what is
better, in points of 100 for accuracy (of labels, or of tokens after the right ones) and in nats a token.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from experiments import multimodel, sweeps
from experiments.multimodel_arms import ARMS, FEW, LITTLE, TASKS

Rows = Sequence[Mapping[str, Any]]
Arms = Callable[[str], str]  # the arm that is asked about a task
RESULTS = sweeps.ROOT / "experiments/results"
WITHOUT = tuple(name for name in ARMS if name.startswith("without_"))
# Of which tasks labels were dealt out anew.
CONTROLS = {"all other": "right_{}".format, "the larger": lambda task: "shuffled"}


def joint(task: str) -> str:
    """The arm of all tasks, whichever is asked about."""
    return "joint"


def read(path: os.PathLike | str = RESULTS / "multimodel.csv") -> Rows:
    """The rows of all arms."""
    return sweeps.Table(path, multimodel.COLUMNS, multimodel.KEY).rows


def accuracy(task: str) -> str:
    """The name of the score that the paper calls accuracy."""
    return "accuracy" if TASKS[task] == "classify" else "words_right"


def by_seed(
    rows: Rows, arm: str, task: str, score: str, beside: str = "", column: str = "value"
) -> dict[str, float]:
    """Values by seed; of several lengths of a run the longest that `beside`, an arm, has too."""
    own = [row for row in rows if (row["arm"], row["task"], row["score"]) == (arm, task, score)]
    other = {row["steps"] for row in rows if (row["arm"], row["task"]) == (beside or arm, task)}
    longest = max((int(row["steps"]) for row in own if row["steps"] in other), default=0)
    return {row["seed"]: float(row[column]) for row in own if int(row["steps"]) == longest and row[column]}


def gains(rows: Rows, task: str, score: str, arm: str, other: str) -> list[float]:
    """How much better `arm` is than `other`, both with as many steps, for each seed that both have."""
    ours = by_seed(rows, arm, task, score, other)
    theirs = by_seed(rows, other, task, score, arm)
    scale = 1 if score == "nats" else 100
    return [scale * _sign(score) * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs]


def results(rows: Rows, arm: str = "joint") -> Iterator[tuple[str, ...]]:
    """Every score of every task of an arm, over seeds, beside what it costs to know nothing.

    A seed beats the baseline surely if that is outside of its own 95 % interval, over the held-out samples.
    """
    yield "task", "score", "mean", "95 % over seeds", "baseline", "seeds that beat it", "surely"
    seen = dict.fromkeys((row["task"], row["score"]) for row in rows if row["arm"] == arm)
    for task, score in seen:
        values = list(by_seed(rows, arm, task, score).values())
        one = next(row for row in rows if (row["arm"], row["task"], row["score"]) == (arm, task, score))
        told = won = surely = ""
        if one["baseline"]:
            baseline, better = float(one["baseline"]), _sign(score)
            ends = by_seed(rows, arm, task, score, column="low" if better > 0 else "high").values()
            won, surely = (
                f"{sum(better * (end - baseline) > 0 for end in found)} of {len(found)}" if found else ""
                for found in (values, list(ends))
            )
            told = f"{baseline:.3g}, {one['baseline_name']}"
        yield task, score, f"{_mean(values):.3g}", _interval(values), told, won, surely


def comparison(rows: Rows, arm: Arms, other: Arms, tasks: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What an arm gains on each task over another, which may be one for each task."""
    yield "task", "training samples", "gain in accuracy, points", "gain in nats", "seeds"
    for task in tasks:
        found = [gains(rows, task, score, arm(task), other(task)) for score in (accuracy(task), "nats")]
        if found[0]:
            amount = "little" if task in LITTLE else "much"
            yield task, amount, *(f"{_mean(own):+.2f} {_interval(own)}" for own in found), str(len(found[0]))


def scarcity(rows: Rows, task: str, score: str) -> dict[str, list[tuple[int, list[float]]]]:
    """{what else is learned: [(samples of the task, values by seed)]}, the smallest number first."""
    ends = {"alone": f"single_{task}", "images": f"images_{task}", "all": "joint"}
    curves = {}
    for beside, end in ends.items():
        arms = [(count, f"few_{task}_{count}_{beside}" if count else end) for count in _counts(task)]
        found = [(count, by_seed(rows, arm, task, score, ends["alone"])) for count, arm in arms]
        points = [(count, list(own.values())) for count, own in found]
        curves[beside] = [(count, values) for count, values in points if values]
    return curves


def tables(rows: Rows) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Title and lines of each table."""
    yield "One model, eight tasks, on what is held out", list(results(rows))
    yield "The same, longer and with more rows of the translations", list(results(rows, "long"))
    single = "single_{}".format
    yield "Joint over single, equal updates of each task", list(comparison(rows, joint, single, list(TASKS)))
    yield "Joint over single, equal compute", list(comparison(rows, joint, "compute_{}".format, list(TASKS)))
    for others, arm in CONTROLS.items():
        anew = f"with labels of {others} tasks dealt out anew"
        yield f"Gain over single {anew}", list(comparison(rows, arm, single, LITTLE))
        yield f"Joint over the same {anew}", list(comparison(rows, joint, arm, LITTLE))
    for name in WITHOUT:
        lost = comparison(rows, lambda task, name=name: name, joint, list(TASKS))
        yield f"{name.replace('_', ' ')}, over joint", list(lost)
    for task in dict.fromkeys(task for task, _ in FEW):
        for score, title in ((accuracy(task), "Accuracy in points"), ("nats", "Nats a target")):
            yield f"{title} of {task}, by its training samples", list(_scarce(rows, task, score))


def _scarce(rows: Rows, task: str, score: str) -> Iterator[tuple[str, ...]]:
    """Means and intervals of `scarcity`, and of the gain of all over alone, seed by seed."""
    counts, scale = _counts(task), 1 if score == "nats" else 100
    yield "beside", *("all" if not count else str(count) for count in counts)
    curves = scarcity(rows, task, score)
    for beside, points in curves.items():
        of = {count: [scale * value for value in own] for count, own in points}
        yield beside, *(f"{_mean(of[n]):.3g} {_interval(of[n])}" if n in of else "" for n in counts)
    few = [f"few_{task}_{count}_{{}}" if count else "" for count in counts]
    pairs = [
        (name.format("all"), name.format("alone")) if name else ("joint", f"single_{task}") for name in few
    ]
    gained = [gains(rows, task, score, *pair) for pair in pairs]
    yield "gain of all over alone", *(f"{_mean(own):+.3g} {_interval(own)}" if own else "" for own in gained)


def draw(rows: Rows) -> Any:
    """Gains over single tasks, and the curves of scarcity."""
    from matplotlib.figure import Figure

    from lwm.evaluation import figures
    from lwm.evaluation.intervals import student

    curves = list(dict.fromkeys(task for task, _ in FEW))
    figure = Figure(figsize=(6 + 4 * len(curves), 4.5), layout="constrained")
    gained, *scarce = figure.subplots(1, 1 + len(curves), width_ratios=(1.5, *(1,) * len(curves)))
    arms = (("joint", "joint, equal updates", "single"), ("joint", "joint, equal compute", "compute"))
    for index, (arm, label, other) in enumerate((*arms, ("shuffled", "others' labels shuffled", "single"))):
        for place, task in enumerate(TASKS):
            own = gains(rows, task, accuracy(task), arm, f"{other}_{task}")
            if own:
                low, high = student(own)
                _point(gained, place + 0.2 * (index - 1), own, low, high, index, label if not place else "")
    gained.axhline(0, color="grey", linewidth=0.8)
    gained.set_xticks(range(len(TASKS)), [task.replace("_", "\n") for task in TASKS], fontsize=8)
    gained.set_ylabel("gain in accuracy over the task alone, points")
    for axes, task in zip(scarce, curves, strict=True):
        names = _counts(task)
        for index, (beside, points) in enumerate(scarcity(rows, task, accuracy(task)).items()):
            places = [names.index(count) for count, _ in points]
            for place, (_, own) in zip(places, points, strict=True):
                low, high = student(own)
                _point(axes, place + 0.08 * (index - 1), own, low, high, index, beside if not place else "")
        axes.set_xticks(range(len(names)), ["all" if not count else f"{count:,}" for count in names])
        axes.set_xlabel(f"training samples of {task}")
        axes.set_ylabel("accuracy")
    for axes in (gained, *scarce):
        axes.legend(*axes.get_legend_handles_labels(), fontsize=8, frameon=False)
    runs = len({(row["arm"], row["seed"], row["steps"]) for row in rows})
    figure.suptitle(
        f"Eight tasks in one model (miniature, {runs} runs; Student 95 % over seeds)", fontsize=11
    )
    figures.save(figure, RESULTS / "multimodel.png")
    return figure


def _point(axes, x: float, values: list[float], low: float, high: float, index: int, label: str) -> None:
    from lwm.evaluation import figures

    mean = _mean(values)
    bar = [[mean - low], [high - mean]] if len(values) > 1 else None
    look = {"fmt": figures.MARKERS[index], "color": figures.COLOURS[index], "capsize": 3}
    axes.errorbar([x], [mean], yerr=bar, label=label or None, **look)


def _counts(task: str) -> list[int]:
    """Of its training samples, the smallest first; 0 = all."""
    return [*sorted(count for name, count in FEW if name == task), 0]


def _sign(score: str) -> int:
    from lwm.evaluation.task_scores import SCORES

    return -1 if score in SCORES and SCORES[score][1] else 1


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _interval(values: Sequence[float]) -> str:
    from lwm.evaluation.intervals import student

    low, high = student(values)
    return f"[{low:.3g}, {high:.3g}]" if len(values) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--input", default=str(RESULTS / "multimodel.csv"))
    rows = read(parser.parse_args().input)
    for title, (head, *lines) in tables(rows):
        if lines:
            print(f"\n**{title}**\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
            print("\n".join(f"| {' | '.join(line)} |" for line in lines))
    if rows:
        draw(rows)


if __name__ == "__main__":
    main()
