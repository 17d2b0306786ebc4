"""One trained MultiModel at four different tasks, as a picture of the first samples: nothing is picked.

    python -m experiments.multimodel_show --workdir=runs/multimodel/long_0_4000 \\
        --output=experiments/results/multimodel_four.png

A column is a task: what the model was given, what it answered, and what was wanted.
"""

import argparse
import textwrap

from experiments import sweeps

SHOWN = ("stamp_class", "spanish_english", "speech", "parsing")
WIDTH = 30  # characters of a line


def answers(workdir: str, data: str, task: str, count: int, beams: int):
    """(samples, texts that the model answers) of the first held-out samples of a task."""
    import numpy as np

    from lwm.assessment.task_answers import ask, write
    from lwm.data.task_records import load_tasks
    from lwm.data.tokenizers import load_tokenizer
    from lwm.systems import build_model
    from lwm.training.checkpoints import load_params

    config, block, params = load_params(workdir)
    model, data = build_model(config["model"], block), data or config["data"]["path"]
    tokenizer = load_tokenizer(f"{data}/tokenizer.model")
    asked = ask(data, task, model.config, tokenizer, count)
    if asked.kind != "classify":
        return asked, write(model, params, tokenizer, asked, beams)
    given = {name: asked.rows[name] for name in ("images", "task", "weights")}
    classes = load_tasks(data)["classes"]
    return asked, [classes[label] for label in np.asarray(model.predict_labels(params, given))]


def draw(columns: list, path: str) -> None:
    """columns: of (task, samples, answers)."""
    from matplotlib.figure import Figure

    from lwm.evaluation import figures

    rows = len(columns[0][2])
    figure = Figure(figsize=(3.4 * len(columns), 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for axes_B, (task, asked, found) in zip(grid.T, columns, strict=True):
        axes_B[0].set_title(task.replace("_", " "), fontsize=11, fontweight="bold")
        for at, (axes, answer, wanted) in enumerate(zip(axes_B, found, asked.wanted, strict=True)):
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
    columns = []
    for task in chosen.tasks.split(","):
        columns.append((task, *answers(chosen.workdir, chosen.data, task, chosen.samples, chosen.beams)))
        _, asked, found = columns[-1]
        for answer, wanted in zip(found, asked.wanted, strict=True):
            print(f"{task}: {answer!r}, wanted {wanted!r}")
    draw(columns, chosen.output)


if __name__ == "__main__":
    main()
