"""Laws beside each other: what they say of runs they were fitted to, and of runs they were not.

The likelihood is that of which Huber's objective is the logarithm: errors r of density exp(-huber(r) / s) /
Z(s), normal if delta is infinite, Laplace's if it is small, s chosen to suit. Fits of the log loss and of
the loss can be compared, as both are turned into densities of the loss.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from lwm.scaling.fitting import Fit
from lwm.scaling.resampling import percentiles, residual_bootstrap
from lwm.scaling.runs_table import Runs, TooFewRuns


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


def aicc(*fits: Fit) -> float:
    """Akaike's criterion, corrected for few runs (Hurvich and Tsai 1989); the scale of errors counts, too.

    Of several fits, each to runs of its own: of all of them as one model.

    Raises:
      TooFewRuns: too few for the correction: it needs two more than there are parameters and scales.
    """
    n, k = sum(found.runs.size for found in fits), sum(len(found.theta) + 1 for found in fits)
    if n <= k + 1:
        raise TooFewRuns(f"aicc: {n} runs for {k - len(fits)} parameters; give {k + 2}")
    return 2 * k - 2 * sum(map(log_likelihood, fits)) + 2 * k * (k + 1) / (n - k - 1)


def rmse(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(_root_mean_square(predicted - measured))


def bias(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean of predicted less measured: below 0, the law promises too much."""
    return float(np.mean(predicted - measured))


def largest(runs: Runs) -> np.ndarray:
    """A mask of the runs of the largest P, or of most tokens: those to hold out."""
    tokens = runs.tokens.sum(1)
    close = 1 - 1e-6
    return (runs.parameters >= close * runs.parameters.max()) | (tokens >= close * tokens.max())


def chance(runs: Runs) -> tuple[float, int]:
    """The standard deviation among runs that differ in their seed alone, and its degrees of freedom.

    In the unit of the loss; NaN and 0 if no two runs have the same size and tokens.
    No law of sizes and tokens can foretell single runs better than that.
    """
    _, group = np.unique(np.column_stack([runs.parameters, runs.tokens]), axis=0, return_inverse=True)
    count = np.bincount(group.ravel())
    mean = np.bincount(group.ravel(), runs.loss) / count
    free = runs.size - len(count)
    squares = float(np.square(runs.loss - mean[group.ravel()]).sum())
    return (math.sqrt(squares / free) if free else math.nan), free


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
      TooFewRuns: no held-out runs.
    """
    return judge_together(found.law.name, [(found, held_out)], draws=draws, seed=seed)


def judge_together(
    name: str, parts: Sequence[tuple[Fit, Runs]], *, draws: int = 200, seed: int = 0
) -> Judgement:
    """As `judge`, of several fits and what each is asked about, taken as one model: a law for each modality.

    Losses must be in one unit. One fit may be asked about several parts: it is counted once.
    """
    fits = list(dict.fromkeys(found for found, _ in parts))
    inside, outside = _losses([(found, found.runs) for found in fits]), _losses(parts)
    count = sum(len(found.theta) for found in fits)
    return judge_drawn(name, count, aicc(*fits), inside, outside, _drawn_errors(parts, draws, seed))


def judge_drawn(
    name: str,
    parameters: int,
    criterion: float,
    inside: tuple[np.ndarray, np.ndarray],
    outside: tuple[np.ndarray, np.ndarray],
    drawn: np.ndarray,
) -> Judgement:
    """As `judge`, of anything that foretells.

    Args:
      criterion: AICc; NaN of what was not fitted to the runs that its rivals were fitted to.
      inside, outside: predicted and measured, of runs fitted and held out.
      drawn: [draws, held-out runs], predicted less measured as they might have come out.
    """
    around = percentiles(np.column_stack([_root_mean_square(drawn), drawn.mean(1)]))
    errors = rmse(*inside), rmse(*outside)
    return Judgement(name, parameters, criterion, *errors, around[0], bias(*outside), around[1])


def error_ratio(
    first: Sequence[tuple[Fit, Runs]],
    second: Sequence[tuple[Fit, Runs]],
    *,
    draws: int = 200,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """Held-out RMSE of the first over that of the second, with an interval: both see the same runs drawn."""
    one, other = (_root_mean_square(_drawn_errors(parts, draws, seed)) for parts in (first, second))
    value = rmse(*_losses(first)) / rmse(*_losses(second))
    return value, percentiles((one / other)[:, None])[0]


def _losses(parts: Sequence[tuple[Fit, Runs]]) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured, of all runs that the fits are asked about."""
    predicted = np.concatenate([found.predict(runs) for found, runs in parts])
    return predicted, np.concatenate([runs.loss for _, runs in parts])


def _drawn_errors(parts: Sequence[tuple[Fit, Runs]], draws: int, seed: int) -> np.ndarray:
    """[draws, held-out runs]: predicted less measured of runs drawn with replacement, by fits drawn anew."""
    rng, columns = np.random.default_rng(seed), []
    for found, held_out in parts:
        if not held_out.size:
            raise TooFewRuns("held_out: no runs; hold out one at least")
        rows = rng.integers(held_out.size, size=(draws, held_out.size))
        thetas = _thetas(found, draws, seed)
        predicted = np.array([found.law.predict(theta, held_out) for theta in thetas])
        columns.append(np.take_along_axis(predicted - held_out.loss, rows, axis=1))
    return np.concatenate(columns, axis=1)


@functools.lru_cache(maxsize=64)
def _thetas(found: Fit, draws: int, seed: int) -> np.ndarray:
    """The bootstrap of a fit, which several questions ask for."""
    return residual_bootstrap(found, draws, seed=seed)


def _root_mean_square(errors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(errors).mean(-1))


def table(judgements: Sequence[Judgement]) -> str:
    """Markdown, the smallest held-out error first; AICc as what it is above the least, if it is known."""
    least = min((row.aicc for row in judgements if not math.isnan(row.aicc)), default=math.nan)
    lines = [
        "| law | parameters | AICc - least | RMSE | held-out RMSE | held-out bias |",
        "|---" * 6 + "|",
    ]
    for row in sorted(judgements, key=lambda row: row.held_out_rmse):
        outside, off = _around(row.held_out_rmse_interval), _around(row.held_out_bias_interval)
        above = "" if math.isnan(row.aicc) else f"{row.aicc - least:.1f}"
        lines.append(
            f"| {row.law} | {row.parameters} | {above} | {row.rmse:.4f} "
            f"| {row.held_out_rmse:.4f} {outside} | {row.held_out_bias:+.4f} {off} |"
        )
    return "\n".join(lines)


def _around(interval: tuple[float, float]) -> str:
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]"
