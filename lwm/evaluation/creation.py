"""Whether pictures show what was asked for, and how far they are from real ones, both by a classifier.

The classifier is one that no part of what draws has learned from. FD-cls is the Fréchet distance between its
features of drawn and of real pictures. It is the formula of FID (1706.08500) with features of our own, small
ones, and its values mean nothing beside those of FID.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from lwm.evaluation.intervals import wilson
from lwm.evaluation.task_scores import Score


def conditional_accuracy(found_N: Sequence[int], wanted_N: Sequence[int]) -> Score:
    """The share of pictures in which the classifier finds what was asked for, with Wilson's interval.

    Args:
        found_N, wanted_N: numbers of classes.

    Raises:
        ValueError: no pictures, or another number of classes than of pictures.
    """
    found_N, wanted_N = np.asarray(found_N), np.asarray(wanted_N)
    if found_N.shape != wanted_N.shape or found_N.ndim != 1 or not len(found_N):
        raise ValueError(f"found_N: shape {found_N.shape} for {wanted_N.shape} wanted; needs [N], N > 0")
    right = int(np.sum(found_N == wanted_N))
    return Score("conditional_accuracy", right / len(found_N), *wilson(right, len(found_N)))


def frechet_distance(features_NC: np.ndarray, others_MC: np.ndarray) -> float:
    """|μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½) of two normal distributions fitted to features (Dowson, 1982).

    Σ are unbiased; with no more rows than columns they have no full rank, which is no error here. The fewer
    the rows, the larger is the distance of two draws from one distribution, which `fd_cls` takes off.

    Raises:
        ValueError: fewer than two rows, or other columns in the one than in the other.
    """
    for name, x in (("features_NC", features_NC), ("others_MC", others_MC)):
        if x.ndim != 2 or len(x) < 2 or x.shape[1] != features_NC.shape[1]:
            raise ValueError(f"{name}: shape {x.shape}; needs two rows or more of {features_NC.shape[1:]}")
    mean_C, root_CC, trace = _fitted(features_NC)
    other_C, other_root_CC, other_trace = _fitted(others_MC)
    # tr (Σ Σ')^½ is the sum of the singular values of Σ^½ Σ'^½, which keeps digits that eigenvalues lose.
    shared = np.sum(np.linalg.svd(root_CC @ other_root_CC, compute_uv=False))
    return float(max(np.sum((mean_C - other_C) ** 2) + trace + other_trace - 2 * shared, 0.0))


def fd_cls(drawn_NC: np.ndarray, real_NC: np.ndarray) -> Score:
    """The Fréchet distance that all pictures would have from all real ones, with a 95 % interval.

    Row i of drawn_NC is what was drawn for the text of row i of real_NC. The distance d of a few pictures is
    too large, by about a constant over N. The jackknife takes that off (Quenouille, 1949): N d - (N - 1) m,
    with m the mean of the N distances without one pair; of pairs, as the two of a pair are alike. The value
    may be negative, as one without bias has to be where the true distance is about zero. The interval is
    Student's, with the jackknife's variance (Tukey, 1958).

    Simulated with 32 correlated features behind a tanh, for N of 65, 82 and 130, true distances (those of
    100,000 rows) from 0 to 4.7, and 200 trials of each of 27 settings: d was too large by 0.5 to 3.2 on the
    average, the value wrong by 0.12 at most, and the interval held the true distance in 92 to 100 %. What a
    bootstrap takes off is too little with so few rows: at N = 65 it left 0.5 of 3.2. Two disjoint draws of 65
    from a judge's features of its 654 training stamps, 100 times: d 2.60, the value -0.01, 0 always inside.

    Raises:
        ValueError: as `frechet_distance`; fewer than three rows, or not as many of both.
    """
    N = len(drawn_NC)
    if N < 3 or len(real_NC) != N:
        raise ValueError(f"drawn_NC: {N} rows for {len(real_NC)} real ones; needs as many, three or more")
    without = np.array(
        [frechet_distance(*(np.delete(x, row, axis=0) for x in (drawn_NC, real_NC))) for row in range(N)]
    )
    value = N * frechet_distance(drawn_NC, real_NC) - (N - 1) * without.mean()
    error = np.sqrt((N - 1) * without.var())
    reach = stdtrit(N - 1, 0.975) * error
    return Score("fd_cls", float(value), float(value - reach), float(value + reach))


def _fitted(x_NC):
    """Mean, and square root and trace of the covariance, in float64."""
    x_NC = np.asarray(x_NC, np.float64)
    mean_C = x_NC.mean(axis=0)
    _, values, axes = np.linalg.svd((x_NC - mean_C) / np.sqrt(len(x_NC) - 1), full_matrices=False)
    return mean_C, (axes.T * values) @ axes, float(np.sum(values**2))
