"""Laws beside each other: what they say of runs they were fitted to, and of runs they were not.

The likelihood is that of which Huber's objective is the logarithm: errors r of density exp(-huber(r) / s) /
Z(s), normal if delta is infinite, Laplace's if it is small, s chosen to suit. Fits of the log loss and of
the loss can be compared, as both are turned into densities of the loss.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from lwm.errors import UserError
from lwm.scaling.fitting import Fit
from lwm.scaling.resampling import percentiles, residual_bootstrap
from lwm.scaling.runs_table import Runs


def log_likelihood(found: Fit) -> float:
    """The largest over the scale of the errors; infinite if there are none."""
    n, delta, total = found.runs.size, found.delta, found.objective
    jacobian = float(np.log(found.runs.loss).sum()) if found.space == "log loss" else 0.0
    if total <= 0:
        return math.inf
    if math.isinf(delta):
        variance = 2 * total / n
        return -0.5 * n * (math.log(2 * math.pi * variance) + 1) - jacobian

    def negative(log_s: float) -> float:
        s = math.exp(log_s)
        inside = math.sqrt(2 * math.pi * s) * math.erf(delta / math.sqrt(2 * s))
        return n * math.log(inside + 2 * s / delta * math.exp(-(delta**2) / (2 * s))) + total / s

    # Between the scales that would suit Laplace's and the normal density, with room on both sides.
    middle = math.log(total / n)
    best = minimize_scalar(
        negative, bounds=(middle - 4, middle + 4), method="bounded", options={"xatol": 1e-9}
    )
    return -float(best.fun) - jacobian


def aicc(found: Fit) -> float:
    """Akaike's criterion, corrected for few runs (Hurvich and Tsai 1989); the scale of errors counts, too.

    Raises:
      UserError: too few runs for the correction: it needs three more than the law has parameters.
    """
    n, k = found.runs.size, len(found.theta) + 1
    if n <= k + 1:
        raise UserError(f"aicc: {n} runs for {k - 1} parameters; give {k + 2}")
    return 2 * k - 2 * log_likelihood(found) + 2 * k * (k + 1) / (n - k - 1)


def rmse(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(predicted - measured))))


def bias(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean of predicted less measured: below 0, the law promises too much."""
    return float(np.mean(predicted - measured))


def largest(runs: Runs) -> np.ndarray:
    """A mask of the runs of the largest P, or of most tokens: those to hold out."""
    tokens = runs.tokens.sum(1)
    close = 1 - 1e-6
    return (runs.parameters >= close * runs.parameters.max()) | (tokens >= close * tokens.max())


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A law on the runs it was fitted to and on others; errors in the unit of the loss, intervals of 95 %."""

    law: str
    parameters: int
    aicc: float
    rmse: float
    held_out_rmse: float
    held_out_rmse_interval: tuple[float, float]
    held_out_bias: float
    held_out_bias_interval: tuple[float, float]


def judge(found: Fit, held_out: Runs, *, draws: int = 200, seed: int = 0) -> Judgement:
    """What a fit is worth. Intervals: errors of the fitted runs and the choice of held-out ones are chance.

    Raises:
      UserError: no held-out runs.
    """
    if not held_out.size:
        raise UserError("held_out: no runs; hold out one at least")
    rng = np.random.default_rng(seed)
    drawn = []
    for theta in residual_bootstrap(found, draws, seed=seed):
        rows = held_out.take(rng.integers(held_out.size, size=held_out.size))
        predicted = found.law.predict(theta, rows)
        drawn.append((rmse(predicted, rows.loss), bias(predicted, rows.loss)))
    around = percentiles(np.array(drawn))
    predicted, inside = found.predict(held_out), rmse(found.predict(found.runs), found.runs.loss)
    outside, off = rmse(predicted, held_out.loss), bias(predicted, held_out.loss)
    return Judgement(
        found.law.name, len(found.theta), aicc(found), inside, outside, around[0], off, around[1]
    )


def table(judgements: Sequence[Judgement]) -> str:
    """Markdown, the smallest held-out error first; AICc as what it is above the least."""
    least = min(row.aicc for row in judgements)
    lines = [
        "| law | parameters | AICc - least | RMSE | held-out RMSE | held-out bias |",
        "|---" * 6 + "|",
    ]
    for row in sorted(judgements, key=lambda row: row.held_out_rmse):
        outside, off = _around(row.held_out_rmse_interval), _around(row.held_out_bias_interval)
        lines.append(
            f"| {row.law} | {row.parameters} | {row.aicc - least:.1f} | {row.rmse:.4f} "
            f"| {row.held_out_rmse:.4f} {outside} | {row.held_out_bias:+.4f} {off} |"
        )
    return "\n".join(lines)


def _around(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"
