"""The page of a run: one HTML file with everything in it, from the files that the verbs left in the workdirs.

    config.json       what was run                          (train)
    metrics.jsonl     losses by step and stage              (train)
    evaluation.jsonl  numbers beside their baselines        (evaluate)
    needle.json       the needle grid                       (evaluate)
    samples/*         texts, PNG frames, GIF clips          (generate, evaluate)

A file that is not there is said to be missing; nothing is filled in for it.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import jinja2
from etils import epath

from lwm.evaluation import charts
from lwm.evaluation.workdirs import read_json, read_rows, read_run

# Metric of metrics.jsonl: title of its chart, unit, colour, and the measure whose baseline is drawn in it.
CURVES = {
    "text_nll": ("Text", "nats/token", "text", ""),
    "vision_nll": ("Vision codes", "nats/token", "vision", "vision_nats_per_token"),
    "psnr": ("Frames rebuilt by the VQGAN", "dB", "vision", "psnr"),
}
TITLES = {
    "text_bits_per_byte": "Held-out text",
    "text_bits_per_byte_vs_xz": "Held-out text beside xz",
    "vision_nats_per_token": "Held-out video",
    "vision_nats_per_token_vs_training": "Held-out video beside training",
    "needle_found": "Needles found",
    "needle_gain": "Needle noticed",
    "psnr": "Frames rebuilt",
    "code_usage": "Codes in use",
    "code_perplexity": "Perplexity of the codes",
}
# Samples that no prompt describes.
CAPTIONS = {"rebuilt.png": "held-out frames above, below them what is left of each after the codes"}
HEADLINES = ("text_bits_per_byte", "vision_nats_per_token", "needle_found", "psnr", "code_usage")
# A mean over fewer tokens says nothing: a batch of one long row may hold a caption and no other text.
MIN_TOKENS = 128
LOWER_IS_BETTER = ("bits/byte", "nats/token", "edits/character")


def build(
    workdir: epath.PathLike,
    *,
    vqgan: epath.PathLike | None = None,
    log: epath.PathLike | None = None,
    about: Sequence[tuple[str, str]] = (),
) -> str:
    """The page of a run as HTML.

    Args:
        workdir: of a transformer, or of anything that trained in stages.
        vqgan: workdir of the tokenizer that made its codes.
        log: JSON lines {"step", "seconds", "command": [word, …]} of the commands that led here.
        about: further (name, value) pairs for the line under the title: commit, machine, versions.

    Raises:
        UserError: a workdir has no config.json, or a file in it cannot be read.
    """
    logged = read_rows(epath.Path(log)) if log else []
    workdirs = [epath.Path(path) for path in (workdir, vqgan) if path]
    runs = [read_run(path, CAPTIONS | prompts(logged)) for path in workdirs]
    numbers = [judged(number) for run in runs for number in run["numbers"]]
    lengths = [stage["length"] for stage in runs[0]["stages"] if stage["length"]]
    facts = {
        "title": runs[0]["config"].get("experiment", workdirs[0].name),
        "lengths": lengths,
        "about": [("seed", runs[0]["config"].get("seed")), *about],
        "runs": runs,
        "numbers": numbers,
        "cards": [number for number in numbers if number["name"] in HEADLINES],
        "charts": [drawn for run in runs for drawn in curves(run)],
        "needle": needle_grid(read_json(workdirs[0] / "needle.json")),
        "samples": [sample for run in runs for sample in run["samples"]],
        "log": [row | {"words": [shlex.quote(word) for word in row["command"]]} for row in logged],
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lwm.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": charts.short, "count": charts.count, "clock": clock, "measure": measure}
    return environment.get_template("page.html.jinja").render(facts)


def curves(run: Mapping[str, Any]) -> Iterator[dict]:
    """A chart of each metric of CURVES that the run has, over all its stages."""
    unit = run["unit"]
    bands = [
        charts.Band(stage["length"], stage["start"], stage["end"]) for stage in run["stages"] if stage["done"]
    ]
    for metric, (title, y_unit, modality, measured) in CURVES.items():
        lines = [
            charts.Line(
                label,
                style,
                modality,
                [(r[unit], r[metric]) for r in run["rows"] if r["kind"] == kind and counts(r, metric)],
            )
            for label, style, kind in (("training", "train", "train"), ("held out", "held-out", "eval"))
        ]
        levels = [
            charts.Level(number["baseline_name"], number["baseline"])
            for number in run["numbers"]
            if number["name"] == measured and number["baseline"] is not None
        ]
        drawn = charts.chart(
            title=f"{title}, {y_unit}", x_label=f"{unit} seen", lines=lines, bands=bands, levels=levels[-1:]
        )
        if drawn:
            yield drawn


def counts(row: Mapping, metric: str) -> bool:
    """Whether a row has the metric, over enough tokens if it is a mean over tokens."""
    if metric not in row:
        return False
    return not metric.endswith("_nll") or row.get(f"{metric.removesuffix('_nll')}_tokens", 0) >= MIN_TOKENS


def judged(row: Mapping) -> dict:
    """The row with "title", "better" (None without a baseline), "verdict": how it stands to its baseline."""
    row = {key: row.get(key) for key in ("name", "value", "unit", "baseline", "baseline_name", "n", "stage")}
    row["title"] = TITLES.get(row["name"], str(row["name"]).replace("_", " "))
    value, baseline = row["value"], row["baseline"]
    if baseline is None or value is None:
        return row | {"better": None, "verdict": ""}
    side = "below" if value < baseline else "above" if value > baseline else "equal to"
    if baseline > 0 and 0.01 <= abs(value / baseline - 1) < 1 and row["unit"] in LOWER_IS_BETTER:
        side = f"{100 * abs(value / baseline - 1):.0f} % {side}"
    elif row["unit"] == "dB":
        side = f"{abs(value - baseline):.1f} dB {side}"
    lower = row["unit"] in LOWER_IS_BETTER
    return row | {"better": value != baseline and (value < baseline) == lower, "verdict": side}


def needle_grid(found: Any) -> dict:
    """The cells as rows of depths and columns of lengths; {} if there are none."""
    cells = {(cell["depth"], cell["length"]): cell for cell in (found or {}).get("cells", [])}
    lengths, depths = sorted({length for _, length in cells}), sorted({depth for depth, _ in cells})
    rows = [{"depth": depth, "cells": [cells.get((depth, length)) for length in lengths]} for depth in depths]
    return {"lengths": [charts.length(length) for length in lengths], "rows": rows} if cells else {}


def prompts(logged: Sequence[Mapping]) -> dict[str, str]:
    """File name of an --output: the --prompt that it was made from, in quotation marks."""
    found = {}
    for row in logged:
        flags = dict(word[2:].split("=", 1) for word in row["command"] if word[:2] == "--" and "=" in word)
        if {"output", "prompt"} <= flags.keys():
            found[PurePath(flags["output"]).name] = f"“{flags['prompt']}”"
    return found


def measure(value: float | None, unit: str) -> str:
    """A value for people: shares in percent, all else with three digits."""
    if value is None:
        return ""
    return f"{charts.short(100 * value)} %" if unit == "share" else charts.short(value)


def clock(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
