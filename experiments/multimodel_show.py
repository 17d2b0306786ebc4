"""One trained MultiModel at four different tasks, as a picture of the first samples: nothing is picked.

    python -m experiments.multimodel_show --workdir=runs/multimodel/long_0_4000 \\
        --output=experiments/results/multimodel_four.png

A column is a task: what the model was given, what it answered, and what was wanted.
"""

import argparse
import sys
import textwrap

from experiments import sweeps
from lwm.errors import UserError

SHOWN = ("stamp_class", "spanish_english", "speech", "parsing")
WIDTH = 30  # characters of a line


def answered(chosen: argparse.Namespace) -> list[tuple]:
    """(task, samples, texts that the model answers) of the first held-out samples of each task.

    Raises UserError if what is wanted is not there, before anything is answered.
    """
    for name in ("samples", "beams"):
        if (value := getattr(chosen, name)) < 1:
            raise UserError(f"{name}: {value} is less than one; leave it out, or give 1 or more")
    import numpy as np

    from lwm.assessment.task_answers import ask, write
    from lwm.serving.task_runs import open_tasks

    run = open_tasks(chosen.workdir, data=chosen.data, tasks=chosen.tasks.split(","))
    columns = []
    for task, asked in [(task, ask(run, task, chosen.samples)) for task in run.tasks]:
        if asked.kind == "classify":
            given = {name: asked.rows[name] for name in ("images", "task", "weights")}
            labels = np.asarray(run.model.predict_labels(run.params, given))
            found = [run.label(int(number)) for number in labels]
        else:
            found = write(run, asked, chosen.beams)
        columns.append((task, asked, found))
    return columns


def draw(columns: list, path: str) -> None:
    """columns: of (task, samples, answers)."""
    from matplotlib.figure import Figure

    from lwm.evaluation import figures

    rows = max(len(found) for _, _, found in columns)
    figure = Figure(figsize=(3.4 * len(columns), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for axes_B, (task, asked, found) in zip(grid.T, columns, strict=True):
        axes_B[0].set_title(task.replace("_", " "), fontsize=11, fontweight="bold")
        for axes in axes_B[len(found) :]:
            axes.set_visible(False)
        for at, (axes, answer, wanted) in enumerate(zip(axes_B, found, asked.wanted, strict=False)):
            _given(axes, asked, at)
            right = answer.strip() == wanted.strip()
            lines = textwrap.wrap(f"answer: {answer}", WIDTH)[:4]
            lines += [] if right else textwrap.wrap(f"wanted: {wanted}", WIDTH)[:4]
            colour = figures.COLOURS[2] if right else figures.COLOURS[1]
            axes.set_xlabel("\n".join(lines), fontsize=8, color=colour)
            axes.set_xticks([])
            axes.set_yticks([])
    figures.save(figure, path)


def _given(axes, asked, at: int) -> None:
    if asked.kind == "speech":
        waveform = asked.rows["waveform"][at][: asked.rows["samples"][at]]
        axes.specgram(waveform, NFFT=256, noverlap=128, cmap="cividis")
    elif asked.kind == "translate":
        text = "\n".join(textwrap.wrap(asked.sources[at], WIDTH - 4)[:8])
        axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, family="monospace")
    else:
        axes.imshow(asked.rows["images"][at])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a joint run")
    parser.add_argument("--data", default="", help="that of the run if empty")
    parser.add_argument("--output", default=str(sweeps.ROOT / "experiments/results/multimodel_four.png"))
    parser.add_argument("--tasks", default=",".join(SHOWN))
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--beams", type=int, default=1)
    chosen = parser.parse_args()
    try:
        columns = answered(chosen)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for task, asked, found in columns:
        for answer, wanted in zip(found, asked.wanted, strict=True):
            print(f"{task}: {answer!r}, wanted {wanted!r}")
    draw(columns, chosen.output)


if __name__ == "__main__":
    main()
