"""What a law says to do: the best size for a budget, what buys the same loss, minima of measured budgets."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from lwm.errors import UserError
from lwm.scaling.laws import Law
from lwm.scaling.runs_table import Runs, make_runs

FLOPS = 6.0  # a parameter and token, forward and backward (2001.08361, section 2.1)
LARGEST = 1e30  # tokens or parameters that are looked for
HALVINGS = 100


class Allocation(NamedTuple):
    """Parameters and tokens (of all modalities) for a budget.

    interior: False if no size is better than the smallest and largest possible, as with laws in which only
    the product of both counts: then there is nothing to choose.
    """

    parameters: float
    tokens: float
    loss: float
    interior: bool


def chinchilla_optimum(values: dict[str, float], flops: float, *, cost: float = FLOPS) -> Allocation:
    """The closed form for E + A / P^alpha + B / N^beta with cost P N = flops (2203.15556, equation 4)."""
    E, A, B, alpha, beta = (values[name] for name in ("E", "A", "B", "alpha", "beta"))
    parameters = (alpha * A / (beta * B)) ** (1 / (alpha + beta)) * (flops / cost) ** (beta / (alpha + beta))
    tokens = flops / cost / parameters
    return Allocation(parameters, tokens, E + A / parameters**alpha + B / tokens**beta, True)


def optimum(
    law: Law,
    theta: np.ndarray,
    flops: float,
    *,
    mixture: Sequence[float] = (1.0,),
    target: int = 0,
    cost: float = FLOPS,
) -> Allocation:
    """The best size for a budget by any law, its tokens mixed in the shares `mixture`, for the loss `target`.

    Raises:
      UserError: a budget that does not pay one token of one parameter.
    """
    if not flops > cost:
        raise UserError(f"flops: {flops}; must be above {cost}, a token of a model of one parameter")
    budget = math.log(flops / cost)

    def loss(log_parameters):
        tokens = np.exp(budget - log_parameters)
        return _predict(law, theta, np.exp(log_parameters), tokens, mixture, target)

    grid = np.linspace(0, budget, 257)
    losses = loss(grid)
    best = int(np.clip(losses.argmin(), 1, len(grid) - 2))
    around = (grid[best - 1], grid[best + 1])
    end = minimize_scalar(lambda x: loss(np.array([x]))[0], bounds=around, method="bounded")
    margin = 1e-9 * abs(end.fun)
    interior = bool(end.fun < losses[0] - margin and end.fun < losses[-1] - margin)
    parameters = math.exp(end.x)
    return Allocation(parameters, flops / cost / parameters, float(end.fun), interior)


def tokens_for(
    law: Law,
    theta: np.ndarray,
    loss: float,
    parameters: np.ndarray,
    *,
    mixture: Sequence[float] = (1.0,),
    target: int = 0,
) -> np.ndarray:
    """An iso-loss contour: tokens (of all modalities) with which models of `parameters` reach `loss`.

    NaN where the law says that up to 1e30 tokens do not. Losses must fall with tokens, as those of all
    laws here do at a given mixture.
    """
    parameters = np.atleast_1d(np.asarray(parameters, float))

    def predicted(tokens):
        return _predict(law, theta, parameters, tokens, mixture, target)

    return _falls_to(predicted, loss, len(parameters))


def parameters_for(
    law: Law, theta: np.ndarray, loss: float, tokens: np.ndarray, target: int = 0
) -> np.ndarray:
    """The other contour: parameters that reach `loss` on given tokens [runs, modalities]; NaN if none do.

    With more and more tokens of another modality it says whether they let a smaller model do as well.
    """
    tokens = np.asarray(tokens, float)
    tokens = tokens[:, None] if tokens.ndim == 1 else tokens

    def predicted(parameters):
        return law.predict(theta, make_runs(parameters, tokens, target=target))

    return _falls_to(predicted, loss, len(tokens))


class Minimum(NamedTuple):
    """The bottom of a parabola through the losses of one budget over the logarithm of size.

    interior: whether sizes on both sides of it were trained; if not, it is an extrapolation.
    """

    flops: float
    parameters: float
    tokens: float
    loss: float
    interior: bool


def isoflop_minima(runs: Runs, *, cost: float = FLOPS, tolerance: float = 0.1) -> list[Minimum]:
    """Approach 2 of 2203.15556: runs of (nearly) equal budget, a parabola each, smallest budget first.

    Args:
      tolerance: budgets that differ by less than this share of the smallest one belong together. A group of
        fewer than three sizes, or whose parabola does not open upwards, gives no minimum.
    """
    flops, sizes = cost * runs.parameters * runs.tokens.sum(1), np.log(runs.parameters)
    found, rest = [], np.argsort(flops)
    while len(rest):
        group = rest[flops[rest] <= (1 + tolerance) * flops[rest[0]]]
        rest = rest[len(group) :]
        if len(np.unique(np.round(sizes[group], 6))) < 3:
            continue
        middle = sizes[group].mean()
        bend, slope, height = np.polyfit(sizes[group] - middle, runs.loss[group], 2)
        if bend > 0:
            bottom = -slope / (2 * bend)
            budget = float(np.exp(np.log(flops[group]).mean()))
            size = math.exp(middle + bottom)
            interior = bool(sizes[group].min() < middle + bottom < sizes[group].max())
            low = float(height - slope**2 / (4 * bend))
            found.append(Minimum(budget, size, budget / cost / size, low, interior))
    return found


def exponents(minima: Sequence[Minimum]) -> tuple[float, float]:
    """a and b of best parameters ~ flops^a and tokens ~ flops^b, by a straight line through the logarithms.

    Raises:
      UserError: fewer than two minima.
    """
    if len(minima) < 2:
        raise UserError(f"minima: {len(minima)}; a line needs two budgets of three sizes each")
    flops = np.log([minimum.flops for minimum in minima])
    a = np.polyfit(flops, np.log([minimum.parameters for minimum in minima]), 1)[0]
    b = np.polyfit(flops, np.log([minimum.tokens for minimum in minima]), 1)[0]
    return float(a), float(b)


def _predict(law: Law, theta, parameters, tokens, mixture: Sequence[float], target: int) -> np.ndarray:
    shares = np.asarray(mixture, float) / np.sum(mixture)
    return law.predict(theta, make_runs(parameters, np.asarray(tokens)[:, None] * shares, target=target))


def _falls_to(predicted: Callable[[np.ndarray], np.ndarray], loss: float, count: int) -> np.ndarray:
    """Where a falling function of `count` numbers from 1 to LARGEST reaches `loss`, each by halving."""
    low, high = np.zeros(count), np.full(count, math.log(LARGEST))
    reached, above = predicted(np.exp(high)) <= loss, predicted(np.exp(low)) >= loss
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        down = predicted(np.exp(middle)) <= loss
        low, high = np.where(down, low, middle), np.where(down, middle, high)
    return np.where(reached & above, np.exp((low + high) / 2), math.nan)
