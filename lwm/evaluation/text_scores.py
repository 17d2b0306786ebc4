"""Scores of written answers: how many are right, how far off the others are, and what they cost in nats.

chrF and BLEU are sacreBLEU's (`pip install -e ".[scores]"`), of a whole set of answers, on a scale of 100.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lwm.errors import UserError


def accuracy(found: Sequence, wanted: Sequence) -> float:
    """Share of the answers, labels or texts, that are what is wanted."""
    _check(found, wanted)
    return sum(one == other for one, other in zip(found, wanted, strict=True)) / len(wanted)


def exact_match(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Share of the texts that are right to the letter; white space around them does not count."""
    return accuracy([text.strip() for text in found], [text.strip() for text in wanted])


def edit_distance(one: Sequence, other: Sequence) -> int:
    """Fewest insertions, deletions and substitutions that make `one` into `other` (Levenshtein, 1966)."""
    numbers = {item: number for number, item in enumerate({*one, *other})}
    one, other = ([numbers[item] for item in items] for items in (one, other))
    other, places = np.asarray(other, np.int64), np.arange(len(other) + 1)
    row = places
    for at, item in enumerate(one, start=1):
        # Row by row: all but insertions at once, then insertions as a running minimum.
        best = np.concatenate([[at], np.minimum(row[1:] + 1, row[:-1] + (other != item))])
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])


def character_error_rate(found: Sequence[str], wanted: Sequence[str]) -> float:
    """Edits that all texts need over the characters that are wanted: 1 for empty answers, at times more."""
    _check(found, wanted)
    edits = sum(edit_distance(one, other) for one, other in zip(found, wanted, strict=True))
    return edits / sum(map(len, wanted))


def chrf(found: Sequence[str], wanted: Sequence[str]) -> float:
    """F2 of character n-grams up to 6, 0 to 100 (Popović, 2015)."""
    _check(found, wanted)
    return _sacrebleu().corpus_chrf(list(found), [list(wanted)]).score


def bleu(found: Sequence[str], wanted: Sequence[str]) -> float:
    """BLEU of sacreBLEU's own tokens, 0 to 100 (Papineni et al., 2002; Post, 1804.08771)."""
    _check(found, wanted)
    return _sacrebleu().corpus_bleu(list(found), [list(wanted)]).score


def log_perplexity(nll_BT: np.ndarray, weights_BT: np.ndarray) -> float:
    """Nats a token: Σ w · nll / Σ w; nll may be anything where the weight is 0."""
    weights_BT = np.asarray(weights_BT, np.float64)
    if not weights_BT.sum() > 0:
        raise UserError(f"weights: {weights_BT.size} that sum to 0 leave nothing to score; give other rows")
    nll_BT = np.where(weights_BT > 0, nll_BT, 0.0).astype(np.float64)
    return float((nll_BT * weights_BT).sum() / weights_BT.sum())


def _check(found: Sequence, wanted: Sequence) -> None:
    if not len(wanted) or len(found) != len(wanted):
        raise UserError(f"answers: {len(found)} to {len(wanted)} questions; give one to each of at least one")


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise UserError('sacrebleu: not installed, and chrF needs it; pip install -e ".[scores]"') from None
    return sacrebleu
