"""Scores of what is said behind pictures, and of where a picture is opened in a text, with 95 % intervals."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lwm.evaluation.intervals import bootstrap
from lwm.evaluation.task_scores import Score


class Opened(NamedTuple):
    """Of each document: places where a picture was opened and belongs, opened at all, and belongs at all."""

    right_B: np.ndarray
    opened_B: np.ndarray
    wanted_B: np.ndarray


def placement_f1(found: Opened) -> Score:
    """2 right / (opened + wanted), with a bootstrap over documents.

    Raises:
        ValueError: no picture belongs anywhere.
    """
    if not np.sum(found.wanted_B):
        raise ValueError("wanted_B: sums to 0; give documents with pictures")
    sums_B, counts_B = 2 * found.right_B, found.opened_B + found.wanted_B
    return Score("placement_f1", float(sums_B.sum() / counts_B.sum()), *bootstrap(sums_B, counts_B))


def words_f1(found: Sequence[str], wanted: Sequence[str]) -> Score:
    """The mean over answers of the F1 of their words, letter case and punctuation aside (as SQuAD's)."""
    scores = [_f1(_words(one), _words(other)) for one, other in zip(found, wanted, strict=True)]
    return Score("words_f1", float(np.mean(scores)), *bootstrap(scores, np.ones(len(scores))))


def _f1(found: Counter, wanted: Counter) -> float:
    shared = (found & wanted).total()
    return 2 * shared / max(found.total() + wanted.total(), 1)


def _words(text: str) -> Counter:
    letters = "".join(letter if letter.isalnum() else " " for letter in text.lower())
    return Counter(letters.split())
