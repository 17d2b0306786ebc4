"""Profile intervals, those to state: how far a parameter moves, the others giving way, till the fit suffers.

The objective S rises by (S - S_min) when a parameter is held beside its best value. Twice the rise, over the
variance that errors of this size and shape give it, is close to the square of Student's t (for least squares
it is the F of regression). With Huber's function that variance is mean(psi^2) / mean(psi'), where psi is the
derivative of the function (Huber 1981, section 7.6). Unlike a standard error, a profile need not be
symmetric, and is unbounded where the runs do not bound the parameter.
"""

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t

from lwm.errors import UserError
from lwm.scaling.fitting import Fit, errors, search, whiten

DOUBLINGS = 6  # of the width that a straight law would have, before a side counts as open


def profile_interval(found: Fit, name: str, level: float = 0.95) -> tuple[float, float]:
    """The interval of a parameter by name; an open side is 0 or infinite.

    Raises:
      UserError: no such parameter, or a fit without errors, which leaves nothing to judge by.
    """
    law = found.law
    if name not in law.names:
        raise UserError(f"profile: no {name!r} in {law.name}; its parameters are {', '.join(law.names)}")
    index, variance = law.names.index(name), _variance(found)
    if not variance > 0:
        raise UserError(f"profile: {law.name} goes through all runs; nothing says how uncertain it is")
    slopes = errors(law, found.theta, found.runs, found.space)[1]
    rest = np.delete(slopes, index, axis=1)
    # Where the others go, to first order, when this one moves by 1; and what of it they cannot undo.
    follow = -np.linalg.lstsq(rest, slopes[:, index], rcond=None)[0]
    alone = np.linalg.norm(slopes[:, index] + rest @ follow)
    direction = np.insert(follow, index, 1.0)
    white = np.insert(whiten(rest), index, 0.0, axis=0)
    limit = float(t.ppf((1 + level) / 2, found.runs.size - len(law.names)))
    width = limit * math.sqrt(variance / max(_curvature(found), 1e-12)) / max(alone, 1e-12)

    def excess(step: float) -> float:
        start = found.theta + step * direction
        _, value = search(law, start, found.runs, found.delta, found.space, white)
        return math.sqrt(max(2 * (value - found.objective) / variance, 0.0)) - limit

    sides = [_crossing(excess, sign * width, sign * math.inf) for sign in (-1, 1)]
    ends = found.theta[index] + np.array(sides)
    low, high = np.exp(ends) if law.logs[index] else ends
    return float(low), float(high)


def profile_intervals(found: Fit, level: float = 0.95) -> dict[str, tuple[float, float]]:
    return {name: profile_interval(found, name, level) for name in found.law.names}


def _crossing(excess, step: float, never: float) -> float:
    """The step at which `excess` turns positive, to a thousandth of it; `never` if it does not."""
    inner, outer = 0.0, step
    for _ in range(DOUBLINGS):
        if excess(outer) > 0:
            return brentq(excess, inner, outer, xtol=1e-3 * abs(step), rtol=1e-6)
        inner, outer = outer, 2 * outer
    return never


def _curvature(found: Fit) -> float:
    """Mean of psi': the share of errors within delta, from a wider window if delta holds only a few.

    A fit lets about as many errors vanish as it has parameters; they are not counted.
    """
    error, K = np.abs(found.residuals), len(found.theta)
    spread = np.median(error) / 0.6745  # the standard deviation, were they normal
    window = max(found.delta, spread * len(error) ** -0.2)
    share = (np.count_nonzero(error <= window) - K) / (len(error) - K)
    return max(share, 1 / len(error)) * min(found.delta / window if window < math.inf else 1.0, 1.0)


def _variance(found: Fit) -> float:
    psi = np.clip(found.residuals, -found.delta, found.delta)
    return float(np.square(psi).sum() / (found.runs.size - len(found.theta))) / _curvature(found)
