"""The picture of `lv_xattn_network.csv`: speed-ups by ratio, the crossover, and what the model expects.

python -m experiments.benchmarks.lv_xattn_plot experiments/results/lv_xattn_network.csv
"""

import csv
import pathlib
import sys

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmarks.lv_xattn_fit import CLOSE, cells

COLOURS = {"200": "#c8452d", "500": "#d99a2b", "1000": "#4b8f5a", "0": "#4a6fa5"}
METHODS = {
    "rotate_queries": ("o", "LV-XAttn"),
    "rotate_keys": ("s", "ring"),
}


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Writes the picture of the rows of one layer, all cells text; nothing if there are none."""
    rows = [row for row in rows if row["mode"] == "layer"]
    found = cells(rows)
    if not found:
        return
    hosts, most = (max((cell[name] for cell in found), key=int) for name in ("n", "K"))
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    draw_ratios(axes[0], [cell for cell in found if (cell["n"], cell["K"]) == (hosts, most)])
    draw_crossover(axes[1], found)
    draw_model(axes[2], rows)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=90)


def draw_ratios(axis: Axes, found: list[dict]) -> None:
    """Speed-up over the ring by S / T, forward and backward: points measured, lines by the model."""
    own = [cell for cell in found if cell["direction"] == "both"] or found
    for mbit in sorted({cell["mbit"] for cell in own}, key=int):
        line = sorted((int(cell["S"]) / int(cell["T"]), cell) for cell in own if cell["mbit"] == mbit)
        x, colour = [ratio for ratio, _ in line], COLOURS.get(mbit, "#888888")
        axis.plot(x, [cell["speed_up"] for _, cell in line], "o", color=colour, label=_link(mbit))
        axis.plot(x, [cell["expected"] for _, cell in line], "-", color=colour, linewidth=1)
    axis.axhline(1, color="black", linewidth=0.6)
    _by_fours(axis)
    axis.set_xlabel("keys for each query, S / T")
    axis.set_title(_title("LV-XAttn over the ring", own), fontsize=9, loc="left")
    axis.legend(frameon=False, fontsize=8)


def draw_crossover(axis: Axes, found: list[dict]) -> None:
    """Measured speed-up by S K / (T N) over all limited links: above 1 LV-XAttn is faster."""
    for mbit in sorted({cell["mbit"] for cell in found} - {"0"}, key=int):
        own = [cell for cell in found if cell["mbit"] == mbit]
        x, y = [cell["balance"] for cell in own], [cell["speed_up"] for cell in own]
        axis.plot(x, y, ".", color=COLOURS.get(mbit, "#888888"), label=_link(mbit))
    axis.axhline(1, color="black", linewidth=0.6)
    axis.axvline(1, color="black", linewidth=0.6, linestyle=":")
    _by_fours(axis)
    axis.set_xlabel("S K / (T N): 1 = both send as much")
    axis.set_title("LV-XAttn over the ring: who is faster", fontsize=9, loc="left")


def draw_model(axis: Axes, rows: list[dict]) -> None:
    """Predicted seconds against measured ones, with the band that counts as close."""
    ends = []
    for method, (marker, name) in METHODS.items():
        own = [row for row in rows if row["method"] == method and row["predicted"]]
        x, y = ([float(row[column]) for row in own] for column in ("seconds", "predicted"))
        axis.plot(x, y, marker, markersize=3, alpha=0.6, label=name)
        ends += x
    if ends:
        ends = [min(ends), max(ends)]
        axis.plot(ends, ends, color="black", linewidth=0.6)
        low, high = ([end * factor for end in ends] for factor in (1 - CLOSE, 1 + CLOSE))
        axis.fill_between(ends, low, high, color="black", alpha=0.08, linewidth=0)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("seconds measured")
    axis.set_title(f"seconds of the model; band: {CLOSE:.0%}", fontsize=9, loc="left")
    axis.legend(frameon=False, fontsize=8)


def _by_fours(axis: Axes) -> None:
    axis.set_xscale("log", base=4)
    axis.set_yscale("log")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(lambda value, _: f"{value:g}")


def _title(text: str, own: list[dict]) -> str:
    what = {"both": "forward + backward", "forward": "forward"}[own[0]["direction"]]
    return f"{text}, {what}\n{own[0]['n']} hosts, {own[0]['N']} query and {own[0]['K']} key heads"


def _link(mbit: str) -> str:
    return "no limit" if mbit == "0" else f"{mbit} Mbit/s"


if __name__ == "__main__":
    table = pathlib.Path(sys.argv[1])
    with table.open(newline="") as file:
        draw(list(csv.DictReader(file)), table.with_suffix(".png"))
