"""Figures of what the suites found, from their rows: a heat map, loss by position, curves with intervals.

Each function returns a matplotlib `Figure` of 800 × 450 pixels for a notebook to show; `save` writes a PNG.
Colours are those of Okabe and Ito and of cividis, which everyone can tell apart; lines have markers besides.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from PIL import Image

from lwm.evaluation.charts import length as short

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX*"
_STYLE = {"markersize": 6, "linewidth": 1.8, "capsize": 3}
Rows = Sequence[Mapping[str, Any]]


def heat_map(rows: Rows, *, title: str) -> Figure:
    """The share found at each depth (downwards) and length (to the right), with how many of how many in it.

    rows: of needle_grid.py. Cells that were not asked stay white.
    """
    lengths, depths = (sorted({row[name] for row in rows}) for name in ("length", "depth"))
    shares_DL = np.full((len(depths), len(lengths)), np.nan)
    figure, axes = _figure(title)
    for row in rows:
        place = depths.index(row["depth"]), lengths.index(row["length"])
        shares_DL[place] = row["share"]
        text = f"{round(row['share'] * row['n'])}/{row['n']}"
        colour = "black" if row["share"] > 0.5 else "white"
        axes.text(place[1], place[0], text, ha="center", va="center", color=colour, fontsize=10)
    image = axes.imshow(shares_DL, vmin=0, vmax=1, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(lengths)), [_length(row, rows) for row in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:g} %" for depth in depths])
    axes.set_xlabel("length of the context, tokens (* = beyond the trained length)")
    axes.set_ylabel("depth of the needle")
    figure.colorbar(image, ax=axes, label="share found")
    return figure


def loss_by_position(rows: Rows, *, title: str, trained: int = 0) -> Figure:
    """Nats a token in each part of the context, with intervals; a line for each length that was read.

    rows: of positions.py; those of a whole length are left out. trained: length, drawn as a line; 0 = none.
    """
    figure, axes = _figure(title)
    for index, length in enumerate(sorted({row["length"] for row in rows})):
        own = [r for r in rows if r["length"] == length and (r["start"], r["end"]) != (0, length)]
        own.sort(key=lambda row: row["start"])
        # The middle of a part on the logarithmic axis.
        x = [np.sqrt(max(row["start"], row["end"] / 2) * row["end"]) for row in own]
        series(axes, index, x, [row["nats"] for row in own], own, f"read to {short(length)}")
    _axis(axes, "position in the context, tokens", trained, [row["end"] for row in rows])
    axes.set_ylabel("nats a token (95 % interval)")
    axes.legend(frameon=False)
    return figure


def curves(
    rows: Rows,
    *,
    title: str,
    label: Callable[[Mapping[str, Any]], str],
    x: str = "length",
    x_label: str = "length of the context, tokens",
    trained: int = 0,
) -> Figure:
    """The share found against the length, with Wilson intervals; a line for each `label(row)`.

    x: field of the rows on the axis. trained: length, drawn as a line; 0 = none.
    """
    figure, axes = _figure(title)
    for index, name in enumerate(dict.fromkeys(label(row) for row in rows)):
        own = sorted((row for row in rows if label(row) == name), key=lambda row: row[x])
        # Lines are drawn a little beside each other, so that equal shares do not hide one another.
        places = [row[x] * 1.02 ** (index - 2) for row in own]
        series(axes, index, places, [row["share"] for row in own], own, name)
    _axis(axes, x_label, trained, [row[x] for row in rows])
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share found (95 % interval)")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def save(figure: Figure, path: epath.PathLike) -> None:
    """Writes the figure as a PNG of 100 pixels an inch, whole or not at all.

    A palette of 256 colours makes it half as large.
    """
    drawn, file, path = io.BytesIO(), io.BytesIO(), epath.Path(path)
    figure.savefig(drawn, format="png", dpi=100)
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    draft = path.parent / (path.name + ".part")
    draft.write_bytes(file.getvalue())
    draft.replace(path)


def _figure(title: str):
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def series(axes, index: int, x: Sequence[float], y: Sequence[float], rows: Rows, label: str) -> None:
    """A line on axes with a bar from "low" to "high" of each row; None = no bar."""
    low = [value - row["low"] if row["low"] is not None else 0 for value, row in zip(y, rows, strict=True)]
    high = [row["high"] - value if row["high"] is not None else 0 for value, row in zip(y, rows, strict=True)]
    axes.errorbar(
        x,
        y,
        yerr=np.maximum([low, high], 0),
        label=label,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        **_STYLE,
    )


def _axis(axes, label: str, trained: int, values: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    values = sorted(set(values))
    axes.set_xticks(values, [short(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
    axes.grid(axis="y", color="0.9")
    if trained:
        axes.axvline(trained, color="0.4", linestyle="--", linewidth=1)
        place = axes.get_xaxis_transform()
        axes.text(trained, 1.0, " trained length", color="0.4", fontsize=8, va="top", transform=place)


def _length(length: int, rows: Rows) -> str:
    beyond = any(row["length"] == length and row.get("note") for row in rows)
    return short(length) + "*" * beyond
