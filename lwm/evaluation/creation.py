"""Whether pictures show what was asked for, and how far they are from real ones, both by a classifier.

The classifier is one that no part of what draws has learned from. FD-cls is the Fréchet distance between its
features of drawn and of real pictures. It is the formula of FID (1706.08500) with features of our own, small
ones, and its values mean nothing beside those of FID.
"""

from collections.abc import Sequence

import numpy as np

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
    the rows, the larger is the distance of two draws from one distribution: it goes beside that of real
    pictures from other real ones, in the same numbers.

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


def fd_cls(drawn_NC: np.ndarray, real_MC: np.ndarray, *, draws: int = 200, seed: int = 0) -> Score:
    """The Fréchet distance of features of drawn and of real pictures, with a 95 % interval.

    The interval is the bootstrap's pivotal one, from 2 d - q97.5 to 2 d - q2.5, with both sides drawn anew:
    what drawing anew adds to the distance is about what the few pictures have added to it already, and is
    taken off. So it is one for the distance of all pictures that could be drawn, and may lie below d.

    Raises:
        ValueError: as `frechet_distance`.
    """
    distance, rng = frechet_distance(drawn_NC, real_MC), np.random.default_rng(seed)
    again = [frechet_distance(_anew(rng, drawn_NC), _anew(rng, real_MC)) for _ in range(draws)]
    low, high = np.quantile(again, [0.025, 0.975])
    return Score("fd_cls", distance, max(2 * distance - high, 0.0), max(2 * distance - low, 0.0))


def _anew(rng, x_NC):
    return x_NC[rng.integers(0, len(x_NC), len(x_NC))]


def _fitted(x_NC):
    """Mean, and square root and trace of the covariance, in float64."""
    x_NC = np.asarray(x_NC, np.float64)
    mean_C = x_NC.mean(axis=0)
    _, values, axes = np.linalg.svd((x_NC - mean_C) / np.sqrt(len(x_NC) - 1), full_matrices=False)
    return mean_C, (axes.T * values) @ axes, float(np.sum(values**2))
