"""Scores of a task's answers with 95 % intervals, beside the best that can be had without a model.

    "classify"    accuracy, nats a label
    all others    exact_match, error_rate, chrf, bleu of the texts that were written; of the right texts, read
                  word by word, nats a token and words_right, the share of tokens that were the likeliest

Shares of answers have Wilson's interval; what is a ratio of sums over rows a bootstrap over rows, which are
what was drawn. chrF and BLEU have none: their spread is that over seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lwm.evaluation import text_scores
from lwm.evaluation.intervals import bootstrap, wilson

# Unit, and whether less is better.
SCORES = {
    "accuracy": ("share", False),
    "exact_match": ("share", False),
    "error_rate": ("edits/character", True),
    "chrf": ("of 100", False),
    "bleu": ("of 100", False),
    "words_right": ("share", False),
    "nats": ("nats/token", True),
}
_WITHOUT_A_MODEL = {
    "majority": "commonest label",
    "frequency": "frequencies of labels",
    "empty": "empty text",
    "commonest": "commonest text",
    "copy": "copied source",
    "unigram": "unigram",
}


class Score(NamedTuple):
    """A value and its interval; low and high are None where there is none."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


class Read(NamedTuple):
    """Of each row: nats_B of all its targets together, right_B of them the likeliest, count_B in all."""

    nats_B: np.ndarray
    right_B: np.ndarray
    count_B: np.ndarray


def label_scores(read: Read) -> Iterator[Score]:
    """Yields the scores of labels, of which each row has one."""
    yield _share("accuracy", int(read.right_B.sum()), len(read.right_B))
    yield _ratio("nats", read.nats_B, read.count_B)


def text_answer_scores(found: Sequence[str], wanted: Sequence[str], read: Read) -> Iterator[Score]:
    """Yields the scores of the texts `found`, and of having `read` those that were wanted."""
    right = round(text_scores.exact_match(found, wanted) * len(wanted))
    yield _share("exact_match", right, len(wanted))
    edits = [text_scores.edit_distance(*pair) for pair in zip(found, wanted, strict=True)]
    yield _ratio("error_rate", edits, [len(text) for text in wanted])
    yield Score("chrf", text_scores.chrf(found, wanted))
    yield Score("bleu", text_scores.bleu(found, wanted))
    yield _ratio("words_right", read.right_B, read.count_B)
    yield _ratio("nats", read.nats_B, read.count_B)


def best_baselines(values: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """{score: (value, what it is of)}: of the baselines named "<what>_<score>" the best for each score.

    values: of `task_baselines`, by name.
    """
    best: dict[str, tuple[float, str]] = {}
    for name, value in values.items():
        what, _, score = name.partition("_")
        less = SCORES[score][1]
        if score not in best or (value < best[score][0] if less else value > best[score][0]):
            best[score] = value, _WITHOUT_A_MODEL[what]
    return best


def _share(name: str, right: int, n: int) -> Score:
    return Score(name, right / n, *wilson(right, n))


def _ratio(name: str, sums: Sequence[float], counts: Sequence[float]) -> Score:
    return Score(name, float(np.sum(sums) / np.sum(counts)), *bootstrap(sums, counts))
