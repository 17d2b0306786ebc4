"""The figure of `dreamllm.py`, from its rows: synergy, number of queries, guidance.

    python -m experiments.dreamllm_figure      draws experiments/results/dreamllm.png

Points are means over seeds with Student's 95 % intervals; with one seed there is no interval. "Gain" is the
difference that `dreamllm_verdicts.py` judges, positive for what is better.
"""

import argparse
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import dreamllm, dreamllm_arms, sweeps
from experiments.dreamllm_verdicts import DRAWN, compared, longest

Rows = Sequence[Mapping[str, Any]]
RESULTS = sweeps.ROOT / "experiments/results"
APART = ("comprehension", "comprehension_flops", "creation", "creation_flops")
# Joint training and what it is compared with.
SYNERGY = (*(("joint", arm) for arm in APART), ("joint_even", "comprehension"), ("joint_even", "creation"))
# What is counted in points, and how many there are in one of its units; nats and FD-cls are in the table.
POINTS = {"accuracy": 100, "accuracy_2": 100, "words_f1": 100, "chrf": 1}


def read(path: os.PathLike | str = RESULTS / "dreamllm.csv") -> Rows:
    """The rows of all arms."""
    return sweeps.Table(path, dreamllm.COLUMNS, dreamllm.KEY).rows


def draw(rows: Rows) -> Any:
    """Three panels; what no row speaks of stays empty."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    synergy, queries, guidance = figure.subplots(1, 3, width_ratios=(1.6, 1, 1))
    _synergy(synergy, rows)
    _queries(queries, rows)
    _guidance(guidance, rows)
    runs = len({(row["arm"], row["seed"], row["steps"]) for row in rows})
    figure.suptitle(
        f"DreamLLM, all parts ours (miniature, {runs} runs; Student 95 % over seeds)", fontsize=11
    )
    return figure


def _synergy(axes, rows: Rows) -> None:
    """What joint training gains over each of the arms that have one objective."""
    from lwm.evaluation import figures

    arms = {f"{one} against {other}": (one, other) for one, other in SYNERGY}
    points = {row: of for row in compared(rows) for end, of in POINTS.items() if row.what.endswith(f"_{end}")}
    found = [row for row in points if row.arms in arms]
    names = list(dict.fromkeys(row.what for row in found))
    for index, (pair, (one, other)) in enumerate(arms.items()):
        own = [row for row in found if row.arms == pair]
        places = [names.index(row.what) + 0.12 * (index % 3) for row in own]
        gains = [points[row] * row.gain for row in own]
        reach = [points[row] * (row.high - row.low) / 2 if row.seeds > 1 else 0 for row in own]
        look = {"fmt": figures.MARKERS[index], "color": figures.COLOURS[index], "capsize": 3}
        label = f"{one.replace('_', ', ')} over {other.replace('_', ', equal ')}"
        if own:
            axes.errorbar(gains, places, xerr=reach, label=label, **look)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=7)
    axes.set_xlabel("gain of joint training, points of 100")
    _legend(axes)


def _queries(axes, rows: Rows) -> None:
    """The distance of what is drawn from what is real, by the number of dream queries."""
    arms = dreamllm_arms.BY_QUERIES
    points = [(count, values(rows, arms[count], "stamps_fd_cls_2")) for count in sorted(arms)]
    _line(axes, 0, [(count, own) for count, own in points if own], "through the language model")
    if encoder := values(rows, "parts", "encoder_stamps_fd_cls_2"):
        axes.axhline(
            sum(encoder) / len(encoder), color="grey", ls="--", label="the decoder's own text encoder"
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(arms), [str(count) for count in sorted(arms)])
    axes.set_xlabel("dream queries")
    axes.set_ylabel("FD-cls at guidance 2 (lower is better)")
    _legend(axes)


def _guidance(axes, rows: Rows) -> None:
    """How often the judge sees in a drawing the colour that the text has asked for."""
    from lwm.assessment.page_drawings import GUIDANCES

    asked = DRAWN[1].removesuffix("2")
    arms = (("creation", "", "language model"), ("parts", "encoder_", "own text encoder"))
    for index, ((arm, source, about), texts) in enumerate(itertools.product(arms, ("short", "long"))):
        named = [(guidance, f"{source}stamps_{texts}_{asked}{guidance:g}") for guidance in GUIDANCES]
        points = [(guidance, values(rows, arm, name)) for guidance, name in named]
        _line(axes, index, [(guidance, own) for guidance, own in points if own], f"{about}, {texts} texts")
    axes.set_xticks(GUIDANCES)
    axes.set_xlabel("guidance")
    axes.set_ylabel(f"share that the judge says is right: {asked.split('_conditional')[0].replace('_', ' ')}")
    _legend(axes)


def values(rows: Rows, arm: str, name: str) -> list[float]:
    """A score over the seeds of an arm's longest runs."""
    return [float(row["value"]) for row in longest(rows) if (row["arm"], row["name"]) == (arm, name)]


def _line(axes, index: int, points: Sequence[tuple[float, list[float]]], label: str) -> None:
    from lwm.evaluation import figures
    from lwm.evaluation.intervals import student

    ends = [student(own) if len(own) > 1 else (None, None) for _, own in points]
    rows = [{"low": low, "high": high} for low, high in ends]
    if points:
        places = [count * (1 + 0.015 * index) for count, _ in points]  # so that bars are seen apart
        figures.series(axes, index, places, [sum(own) / len(own) for _, own in points], rows, label)


def _legend(axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", default=str(RESULTS / "dreamllm.csv"))
    parser.add_argument("--output", default=str(RESULTS / "dreamllm.png"))
    chosen = parser.parse_args()
    from lwm.evaluation import figures

    rows = read(chosen.csv)
    if not rows:
        parser.error(f"--csv: {chosen.csv} has no rows; run experiments.dreamllm first")
    figures.save(draw(rows), chosen.output)


if __name__ == "__main__":
    main()
