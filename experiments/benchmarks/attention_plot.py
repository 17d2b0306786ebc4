"""The picture of the attention scoreboard: a row of panels for each case and length of `attention.csv`.

By itself: `python experiments/benchmarks/attention_plot.py experiments/results/attention.csv`.
"""

import csv
import pathlib
import sys

from matplotlib.figure import Figure

from lwm.evaluation import figures

# Column, title, of the three panels in a row.
PANELS = (
    ("seconds_forward", "seconds forward"),
    ("seconds_both", "seconds forward + backward"),
    ("temporaries_both_mib", "MiB of temporaries on a device, forward + backward"),
)
OURS, OTHERS = "#c8452d", "#8795a5"


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Writes the picture of the rows of the table, all cells text; an empty one has no bar."""
    questions = {}
    for row in rows:
        title = f"case {row['case']}: {int(row['tokens']):,} tokens, seq={row['devices']}"
        questions.setdefault((row["case"], int(row["tokens"]), row["command"], title), []).append(row)
    questions = sorted(questions.items())
    if not questions:
        return
    bars = [len(found) for _, found in questions]
    figure = Figure(figsize=(14, 1.2 * len(bars) + 0.3 * sum(bars)), layout="constrained")
    axes = figure.subplots(len(bars), len(PANELS), squeeze=False, gridspec_kw={"height_ratios": bars})
    for line, ((_, _, _, title), found) in zip(axes, questions, strict=True):
        labels = [f"{row['name']} {row['chunk']}".strip() for row in found]
        for index, (axis, (column, what)) in enumerate(zip(line, PANELS, strict=True)):
            values = [float(row[column] or 0) for row in found]
            colours = [OTHERS if number else OURS for number in range(len(found))]
            axis.barh(range(len(found)), values, color=colours, height=0.7)
            axis.set_yticks(range(len(found)), labels if index == 0 else [""] * len(found))
            axis.invert_yaxis()
            axis.set_title(f"{title}\n{what}" if index == 0 else what, fontsize=9, loc="left")
            axis.tick_params(labelsize=8, length=0)
            axis.locator_params(axis="x", nbins=5)
            axis.spines[["top", "right"]].set_visible(False)
            axis.set_xlim(0, max(values) * 1.18 or 1)
            for number, (row, value) in enumerate(zip(found, values, strict=True)):
                text = f" {value:.3g}" if row[column] else " –"
                axis.text(value, number, text + _ratio(row, column), va="center", fontsize=8)
    figures.save(figure, path)


def _ratio(row: dict, column: str) -> str:
    """How many times ours, where the table has it."""
    ratio = row.get(column.replace("seconds", "ratio"), "") if column.startswith("seconds") else ""
    return f" ({float(ratio):.2f}×)" if ratio else ""


if __name__ == "__main__":
    table = pathlib.Path(sys.argv[1])
    with table.open(newline="") as file:
        draw(list(csv.DictReader(file)), table.with_suffix(".png"))
