"""Do experts know of tasks? The mutual information of the task of a row and the expert of a token.

    I = Σ p(task, expert) · log (p(task, expert) / (p(task) p(expert)))     nats, p by counted choices

Few choices give some by chance, and the tokens of a row are alike: so the tasks are dealt out anew among the
rows, whose choices stay together, and I has to stand out from what that gives.
"""

from typing import NamedTuple

import numpy as np

_DRAWS = 1000


class Routing(NamedTuple):
    """nats: I. low, high: 95 % of a bootstrap over rows. null, bound: mean and 97.5 % quantile when permuted.

    p: share of the permutations, the data counted as one, that reach I. rows: how many had a choice.
    """

    nats: float
    low: float
    high: float
    null: float
    bound: float
    p: float
    rows: int


def mutual_information(counts_XE: np.ndarray) -> float:
    """Nats, of choices counted by X tasks and E experts; 0 if there are none."""
    total = counts_XE.sum()
    if not total:
        return 0.0
    joint_XE = counts_XE / total
    apart_XE = joint_XE.sum(axis=1, keepdims=True) * joint_XE.sum(axis=0)
    some_XE = joint_XE > 0
    return float(np.sum(joint_XE[some_XE] * np.log(joint_XE[some_XE] / apart_XE[some_XE])))


def routing(task_B: np.ndarray, counts_BE: np.ndarray, *, draws: int = _DRAWS, seed: int = 0) -> Routing:
    """Measures the tasks of rows against the experts that their tokens chose, see `multimodel_routing`.

    Each task weighs the same, however many tokens its rows have. Rows without a choice are left out.
    """
    chosen_B = counts_BE.sum(axis=1) > 0
    task_B, counts_BE = task_B[chosen_B], counts_BE[chosen_B].astype(np.float64)
    tasks, task_B = np.unique(task_B, return_inverse=True)
    rng = np.random.default_rng(seed)

    def measured(task_B, counts_BE):
        counts_XE = np.zeros((len(tasks), counts_BE.shape[1]))
        np.add.at(counts_XE, task_B, counts_BE)
        total_X1 = counts_XE.sum(axis=1, keepdims=True)
        return mutual_information(np.divide(counts_XE, total_X1, where=total_X1 > 0, out=counts_XE))

    nats = measured(task_B, counts_BE)
    drawn = [rng.integers(0, len(task_B), len(task_B)) for _ in range(draws)]
    low, high = np.quantile([measured(task_B[rows], counts_BE[rows]) for rows in drawn], [0.025, 0.975])
    nulls = [measured(rng.permutation(task_B), counts_BE) for _ in range(draws)]
    p = (1 + sum(null >= nats for null in nulls)) / (1 + draws)
    bound = float(np.quantile(nulls, 0.975))
    return Routing(nats, float(low), float(high), float(np.mean(nulls)), bound, p, len(task_B))
