"""The rows of evaluation.jsonl: a measure, its unit, and the baseline that it must be read beside."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Measure(NamedTuple):
    """value, baseline, n: names of what an `evaluate` yields; "" for none. The value's name is the row's."""

    name: str
    unit: str
    baseline: str
    baseline_name: str
    n: str
    value: str = ""


MEASURES = (
    Measure(
        "text_bits_per_byte", "bits/byte", "gzip_bits_per_byte", "gzip -9 of the same text", "text_bytes"
    ),
    Measure(
        "text_bits_per_byte_vs_xz",
        "bits/byte",
        "xz_bits_per_byte",
        "xz -9e of the same text",
        "text_bytes",
        "text_bits_per_byte",
    ),
    Measure(
        "vision_nats_per_token_vs_training",
        "nats/token",
        "unigram_cross_entropy",
        "unigram of the training codes",
        "vision_tokens",
        "vision_nats_per_token",
    ),
    Measure(
        "vision_nats_per_token",
        "nats/token",
        "unigram_entropy",
        "unigram entropy of the same codes",
        "vision_tokens",
    ),
    Measure("psnr", "dB", "psnr_mean_colour", "each frame's mean colour", "frames"),
    Measure("code_usage", "share", "", "", "frames"),
    Measure("code_perplexity", "codes", "", "", "frames"),
    Measure("needle_found", "share", "needle_chance", "one guess", "needle_samples"),
    Measure("answers_right", "share", "answers_chance", "a guess without looking", "answers"),
    Measure("answer_loss", "nats/token", "", "", "answers"),
    Measure("needle_gain", "nats/number", "needle_no_gain", "the needle ignored", "needle_samples"),
)


def rows_of(values: Mapping[str, float], stage: str) -> list[dict]:
    """{"name", "value", "unit", "baseline", "baseline_name", "n", "stage"} of each measure in `values`."""
    return [
        {
            "name": measure.name,
            "value": values[measure.value or measure.name],
            "unit": measure.unit,
            "baseline": values.get(measure.baseline),
            "baseline_name": measure.baseline_name or None,
            "n": values.get(measure.n),
            "stage": stage,
        }
        for measure in MEASURES
        if (measure.value or measure.name) in values
    ]


def replace(older: Sequence[dict], rows: Sequence[dict]) -> list[dict]:
    """`older` without its rows of the stages in `rows`, then `rows`."""
    stages = {row["stage"] for row in rows}
    return [row for row in older if row["stage"] not in stages] + list(rows)


def lines(rows: list[dict]) -> list[str]:
    """The rows as lines for people."""
    width = max((len(row["name"]) for row in rows), default=0)
    return [
        f"{row['name']:{width}}  {row['value']:.4g} {row['unit']}"
        + (f" [{row['low']:.4g}, {row['high']:.4g}]" if row.get("low") is not None else "")
        + (f" ({row['baseline']:.4g} by {row['baseline_name']})" if row["baseline"] is not None else "")
        for row in rows
    ]
