"""Fits a law to runs: the sum of Huber's function over errors of the (log) loss is made smallest.

Hoffmann et al. (2203.15556, approach 3) minimise it over errors of the log loss, with L-BFGS from a grid of
starts. So is it done here, with slopes by formula, and in coordinates in which the law is about equally steep
in all directions: a few dozen steps end where hundreds do not in those of the formula. Linear laws have a
closed form under squared errors, and begin with it under others.
"""

import dataclasses
import math

import numpy as np
from scipy.optimize import minimize

from lwm.errors import UserError
from lwm.scaling.laws import Law
from lwm.scaling.runs_table import Runs, TooFewRuns

HUBER = 1e-3  # as published; errors of the log loss beyond it count by their size, not its square
TRIED = 50  # of the grid of starts, those that come closest already: only laws with many weights have more
POLISHED = 4  # of the grid's ends, taken on until they no longer improve
ROUNDS = 12
FLAT = 1e-9  # directions of a law as flat as this share of its steepest are not stretched further


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A law with the parameters that suit its runs best; equal to itself alone.

    Attributes:
      theta: float64 [K], unconstrained; `values` are the parameters by name.
      delta: where Huber's function turns from squares to absolute values; inf for least squares.
      space: "log loss" or "loss", whose errors were made small.
      objective: the sum that was reached.
    """

    law: Law
    theta: np.ndarray
    runs: Runs
    delta: float
    space: str
    objective: float

    @property
    def values(self) -> dict[str, float]:
        return self.law.values(self.theta)

    @property
    def residuals(self) -> np.ndarray:
        """Measured less predicted, in the space of the fit [runs]."""
        return -errors(self.law, self.theta, self.runs, self.space)[0]

    def predict(self, runs: Runs) -> np.ndarray:
        return self.law.predict(self.theta, runs)


def fit(law: Law, runs: Runs, *, delta: float = HUBER, space: str = "log loss") -> Fit:
    """The best parameters of a law that can be found from its own grid of starts.

    Args:
      delta: of Huber's function, in the unit of the errors; math.inf for least squares.
      space: "log loss": relative errors count; "loss": absolute ones.

    Raises:
      UserError: delta not above 0, or another space.
      TooFewRuns: fewer runs than parameters and one.
    """
    if space not in ("log loss", "loss") or not delta > 0:
        raise UserError(f"fit: space {space!r}, delta {delta}; give loss or log loss, and above 0")
    if runs.size <= len(law.names):
        least = len(law.names) + 1
        raise TooFewRuns(f"runs: {runs.size} for the {len(law.names)} parameters of {law.name}; give {least}")
    if law.design is not None:
        table = law.design(runs)
        wanted = np.log(runs.loss) if law.linear_in == "log loss" else runs.loss
        theta = np.linalg.lstsq(table, wanted, rcond=None)[0]
        if law.linear_in == space and math.isinf(delta):
            return _result(law, theta, runs, delta, space)
        begun = [theta]
    else:
        begun = law.starts(runs)
        if len(begun) > TRIED:
            values = [huber(errors(law, start, runs, space)[0], delta).sum() for start in begun]
            begun = begun[np.argsort(values)[:TRIED]]
    ends = [search(law, theta, runs, delta, space) for theta in begun]
    ends = sorted(ends, key=lambda end: end[1])[:POLISHED]
    best = min((polish(law, *end, runs, delta, space) for end in ends), key=lambda end: end[1])
    return _result(law, best[0], runs, delta, space)


def refit(found: Fit, runs: Runs, white: np.ndarray | None = None) -> Fit:
    """The fit of runs that are much like those of `found`, begun where it ended.

    Args:
      white: of `whiten`, if it is known of runs that are alike.
    """
    end = search(found.law, found.theta, runs, found.delta, found.space, white)
    return dataclasses.replace(found, theta=end[0], runs=runs, objective=end[1])


def huber(error: np.ndarray, delta: float) -> np.ndarray:
    """error^2 / 2 up to delta, then delta (|error| - delta / 2)."""
    near = np.minimum(np.abs(error), delta)
    return near * (np.abs(error) - near / 2)


def errors(law: Law, theta: np.ndarray, runs: Runs, space: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted less measured [runs], and its slopes in theta [runs, K]."""
    if space == "loss" and law.linear_in == "loss":
        table = law.design(runs)
        return table @ theta - runs.loss, table
    log, slopes = law.log_loss(theta, runs)
    if space == "log loss":
        return log - np.log(runs.loss), slopes
    predicted = np.exp(log)
    return predicted - runs.loss, predicted[:, None] * slopes


def whiten(slopes: np.ndarray) -> np.ndarray:
    """[K, K]: theta = start + white @ z makes sums of squares about equally steep in every z."""
    size = np.linalg.norm(slopes, axis=0)
    size = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh((slopes / size).T @ (slopes / size))
    return vectors / np.sqrt(np.maximum(values, FLAT * max(values.max(), FLAT))) / size[:, None]


def search(
    law: Law,
    start: np.ndarray,
    runs: Runs,
    delta: float,
    space: str,
    white: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Theta at the end of one L-BFGS from `start`, and the objective there.

    Args:
      white: [K, J] of `whiten`; with fewer columns than parameters, what they do not reach is held fixed.
    """
    first, slopes = errors(law, start, runs, space)
    white = whiten(slopes) if white is None else white
    # Close to 1, whatever delta and the errors are: the tolerances of the search are absolute.
    unit = float(huber(first, delta).sum()) or 1.0

    def function(z):
        with np.errstate(over="ignore", invalid="ignore"):
            error, slopes = errors(law, start + white @ z, runs, space)
            value = huber(error, delta).sum() / unit
            slope = (np.clip(error, -delta, delta) @ slopes) @ white / unit
        if not (math.isfinite(value) and np.isfinite(slope).all()):
            return 1e300, np.zeros_like(z)  # the line search steps back
        return value, slope

    # maxcor: few parameters, so L-BFGS may as well remember everything.
    options = {"maxiter": 300, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-9}
    zero = np.zeros(white.shape[1])
    end = minimize(function, zero, jac=True, method="L-BFGS-B", options=options)
    return start + white @ end.x, float(end.fun) * unit


def polish(
    law: Law, theta: np.ndarray, value: float, runs: Runs, delta: float, space: str
) -> tuple[np.ndarray, float]:
    """Searches again from where a search ended, in the coordinates of that place, until nothing is gained."""
    for _ in range(ROUNDS):
        better, lower = search(law, theta, runs, delta, space)
        gained = value - lower
        if gained > 0:
            theta, value = better, lower
        if gained <= 1e-9 * value:
            break
    return theta, value


def _result(law: Law, theta: np.ndarray, runs: Runs, delta: float, space: str) -> Fit:
    error, _ = errors(law, theta, runs, space)
    return Fit(law, theta, runs, delta, space, float(huber(error, delta).sum()))
