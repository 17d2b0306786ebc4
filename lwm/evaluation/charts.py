"""Numbers to the geometry of small line charts, in the units of an SVG's viewBox; the template draws."""

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 26, 30  # margins around the plot

Point = tuple[float, float]


class Line(NamedTuple):
    """One series. kind: "train" (a line), "held-out" (a line with dots). modality: which colour it has."""

    label: str
    kind: str
    modality: str
    points: Sequence[Point]


class Level(NamedTuple):
    """A value to compare with, drawn across the whole chart."""

    label: str
    value: float


class Band(NamedTuple):
    """The part of the x axis that a stage takes."""

    label: str
    start: float
    end: float


def chart(
    *,
    title: str,
    x_label: str,
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    levels: Sequence[Level] = (),
) -> dict:
    """Everything that the template draws, or {} if no line has a point.

    Returns:
        {"title", "x_label", "width", "height", "plot": {left, right, top, bottom}, "x_ticks", "y_ticks":
        [{at, text}], "bands": [{start, end, middle, text}], "levels": [{at, text}], "lines": [{label, kind,
        modality, path: "x,y x,y …", dots: [{x, y, text}]}]}, with y growing downwards.
    """
    lines = [line._replace(points=[p for p in line.points if all(map(math.isfinite, p))]) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return {}
    xs = [x for line in lines for x, _ in line.points] + [
        edge for band in bands for edge in (band.start, band.end)
    ]
    ys = [y for line in lines for _, y in line.points] + [level.value for level in levels]
    x_low, x_high = min(0.0, *xs), max(xs)
    y_ticks = ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place_x(x: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (x - x_low) / ((x_high - x_low) or 1), 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (y - y_low) / ((y_high - y_low) or 1), 1)

    drawn = []
    for line in lines:
        places = [(place_x(x), place_y(y)) for x, y in line.points]
        texts = [f"{line.label}: {short(y)} at {count(x)}" for x, y in line.points]
        dots = [{"x": x, "y": y, "text": text} for (x, y), text in zip(places, texts, strict=True)]
        path = " ".join(f"{x:g},{y:g}" for x, y in places)
        drawn.append(
            {"label": line.label, "kind": line.kind, "modality": line.modality, "path": path, "dots": dots}
        )
    return {
        "title": title,
        "x_label": x_label,
        "width": WIDTH,
        "height": HEIGHT,
        "plot": {"left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM},
        "x_ticks": [
            {"at": place_x(x), "text": count(x)} for x in ticks(x_low, x_high, 4) if x_low <= x <= x_high
        ],
        "y_ticks": [{"at": place_y(y), "text": short(y)} for y in y_ticks],
        "bands": [
            {"start": (a := place_x(band.start)), "end": (b := place_x(band.end)), "middle": (a + b) / 2}
            | {"text": band.label}
            for band in bands
        ],
        "levels": [
            {"at": place_y(level.value), "text": f"{level.label} {short(level.value)}"} for level in levels
        ],
        "lines": drawn,
    }


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) from at or below `low` to at or above `high`."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def short(value: float) -> str:
    """Three significant digits without an exponent: 0.0123, 1.23, 123, 12300."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    text = f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def count(value: float) -> str:
    """A number of things: 512, 8K, 1.5M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def length(tokens: int) -> str:
    """A context length, in binary thousands where it is one: 512, 2K, 8K, 1M."""
    for size, letter in ((2**20, "M"), (2**10, "K")):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{letter}"
    return str(tokens)
