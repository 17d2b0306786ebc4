"""How sure a number is: Wilson's interval for shares, Student's for seeds, a bootstrap for groups."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

_DRAWS = 2000


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a share (1927): honest at 0 and 1 and for few samples."""
    share, zz = successes / n, z * z / n
    middle = (share + zz / 2) / (1 + zz)
    half = z * math.sqrt(share * (1 - share) / n + zz / (4 * n)) / (1 + zz)
    return max(0.0, middle - half), min(1.0, middle + half)


def student(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of a few independent values, such as differences by seed.

    Without limits if there is one value: it says nothing of the spread.
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return -math.inf, math.inf
    half = float(stdtrit(n - 1, (1 + level) / 2) * np.std(values, ddof=1) / math.sqrt(n))
    return mean - half, mean + half


def bootstrap(
    sums: Sequence[float], counts: Sequence[float], *, seed: int = 0
) -> tuple[float, float] | tuple[None, None]:
    """95 % percentile interval of Σ sums / Σ counts when whole groups are drawn anew (cluster bootstrap).

    What belongs together (numbers asked in one prompt, windows of one document) is one group: its members are
    not independent, so an interval over members would be too narrow.

    sums, counts: of each group. One group says nothing of the spread: (None, None). Groups that all agree
    give an interval of width 0, which is why Wilson's is reported beside it.
    """
    sums, counts = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    if len(sums) < 2:
        return None, None
    chosen = np.random.default_rng(seed).integers(0, len(sums), (_DRAWS, len(sums)))
    low, high = np.quantile(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)
