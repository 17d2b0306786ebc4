"""Laws of scaling: what loss to expect of a model's parameters P and its training tokens N, by modality.

A law maps unconstrained numbers (theta) and runs to the logarithm of the loss and its slopes in theta. Sums
of powers are taken as the logarithm of a sum of exponentials, so that no size of model overflows.

    kaplan          L = ((Nc / P)^(aN / aD) + Dc / N)^aD                      2001.08361, equation 1.5
    chinchilla      L = E + A / P^alpha + B / N^beta                          2203.15556, approach 3
    hypothesis      performance = constant + slope (sum_i log N_i + log P)    2409.06754, N_i = T_i / C_i
    mixed_modal     L = (L_1 + L_2) / 2 - C + A / P^alpha + B / (N_1 + N_2)^beta          2301.03728
    effective_data  L = E + A / P^alpha + B / (N_0 + sum_i w_i N_i)^beta, w_i learned     ours

The hypothesis was published without data or constants and does not say what performance is: here the
negative loss, or its logarithm (which makes it a power law).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from lwm.errors import UserError
from lwm.scaling import starts
from lwm.scaling.runs_table import Runs

FLOOR = 1e-3  # below it logarithms go on as straight lines: a search may pass, a fit does not end there


@dataclasses.dataclass(frozen=True)
class Law:
    """A law of scaling.

    Attributes:
      name: for tables.
      names: of the parameters, in the order of theta.
      logs: which entries of theta are logarithms of their parameter.
      log_loss: (theta [K], runs) -> log of the predicted loss [runs], its slopes in theta [runs, K].
      starts: runs -> [S, K], thetas from which a search begins; None of a law that is linear.
      design: runs -> [runs, K], with which theta gives the loss or its logarithm; None if the law is neither.
      linear_in: "loss", "log loss" or "".
    """

    name: str
    names: tuple[str, ...]
    logs: tuple[bool, ...]
    log_loss: Callable[[np.ndarray, Runs], tuple[np.ndarray, np.ndarray]]
    starts: Callable[[Runs], np.ndarray] | None = None
    design: Callable[[Runs], np.ndarray] | None = None
    linear_in: str = ""

    def predict(self, theta: np.ndarray, runs: Runs) -> np.ndarray:
        """Loss [runs]."""
        if self.linear_in == "loss":
            return self.design(runs) @ theta
        with np.errstate(over="ignore"):  # far from the runs, the draws of a bootstrap may foretell inf
            return np.exp(self.log_loss(np.asarray(theta), runs)[0])

    def natural(self, theta: np.ndarray) -> np.ndarray:
        """The parameters themselves, [..., K], in the order of `names`."""
        with np.errstate(over="ignore"):
            return np.where(self.logs, np.exp(np.where(self.logs, theta, 0.0)), theta)

    def values(self, theta: np.ndarray) -> dict[str, float]:
        return dict(zip(self.names, map(float, self.natural(theta)), strict=True))

    def theta(self, **values: float) -> np.ndarray:
        """The theta of known parameters, such as published ones."""
        found = np.array([values[name] for name in self.names])
        return np.where(self.logs, np.log(np.where(self.logs, found, 1.0)), found)


def own_tokens(runs: Runs) -> np.ndarray:
    """Tokens of the modality whose loss it is."""
    return runs.tokens[:, runs.target]


def all_tokens(runs: Runs) -> np.ndarray:
    return runs.tokens.sum(1)


def chinchilla(data: Callable[[Runs], np.ndarray] = own_tokens) -> Law:
    """E + A / P^alpha + B / N^beta. `data`: which tokens count."""

    def log_loss(theta, runs):
        e, a, b, alpha, beta = theta
        p, d = np.log(runs.parameters), _log_tokens(data(runs))
        total, (se, sa, sb) = _log_sum(np.broadcast_to(e, p.shape), a - alpha * p, b - beta * d)
        return total, np.stack([se, sa, sb, -sa * p, -sb * d], 1)

    def begin(runs):
        return starts.chinchilla(runs.parameters, np.exp(_log_tokens(data(runs))), runs.loss)

    return Law("Chinchilla", ("E", "A", "B", "alpha", "beta"), (True,) * 3 + (False,) * 2, log_loss, begin)


def kaplan(data: Callable[[Runs], np.ndarray] = own_tokens) -> Law:
    """((Nc / P)^(alpha_N / alpha_D) + Dc / N)^alpha_D. `data`: which tokens count."""

    def log_loss(theta, runs):
        nc, dc, log_n, log_d = theta
        alpha_n, alpha_d = np.exp(log_n), np.exp(log_d)
        size = alpha_n / alpha_d * (nc - np.log(runs.parameters))
        total, (s_size, s_data) = _log_sum(size, dc - _log_tokens(data(runs)))
        slopes = [alpha_n * s_size, alpha_d * s_data, alpha_d * s_size * size]
        return alpha_d * total, np.stack([*slopes, alpha_d * (total - s_size * size)], 1)

    def begin(runs):
        return starts.kaplan(runs.parameters, np.exp(_log_tokens(data(runs))), runs.loss)

    return Law("Kaplan", ("Nc", "Dc", "alpha_N", "alpha_D"), (True,) * 4, log_loss, begin)


def hypothesis(
    modalities: Sequence[str] = ("tokens",),
    *,
    slopes: str = "one",
    performance: str = "loss",
    constants: str = "one",
) -> Law:
    """The Scaling Law Hypothesis. A modality of which a run has nothing adds no term to its sum.

    Args:
      modalities: names of the columns of tokens.
      slopes: "one" for all logarithms, as published, or "free": one for P and one for each modality.
      performance: "loss" or "log loss": what falls by slope times the sum.
      constants: "one" for all, or "each": a modality that a run has adds its own, so that raw data may be
        counted in a unit of its own, as the C_i of log(T_i / C_i) are up to whoever measures them.
    """
    names = {"one": ("slope",), "free": ("slope of P", *(f"slope of {name}" for name in modalities))}
    levels = {"one": ("constant",), "each": tuple(f"constant of {name}" for name in modalities)}
    if slopes not in names or performance not in ("loss", "log loss") or constants not in levels:
        asked = f"slopes {slopes!r}, performance {performance!r}, constants {constants!r}"
        raise UserError(f"hypothesis: {asked}; choose one or free, loss or log loss, and one or each")

    def design(runs):
        if runs.modalities != len(modalities):
            raise UserError(f"hypothesis: {runs.modalities} columns of tokens; it was made for {modalities}")
        logs = np.log(np.column_stack([runs.parameters, np.maximum(runs.tokens, 1)]))
        logs = logs if slopes == "free" else logs.sum(1, keepdims=True)
        level = np.ones((runs.size, 1)) if constants == "one" else (runs.tokens > 0).astype(float)
        return np.column_stack([level, -logs])

    def log_loss(theta, runs):
        table = design(runs)
        value = table @ theta
        return (value, table) if performance == "log loss" else _log(value, table)

    title = f"hypothesis, {slopes} slope{'s' * (slopes == 'free')}, {performance}"
    title += ", a constant each" * (constants == "each")
    names = (*levels[constants], *names[slopes])
    return Law(title, names, (False,) * len(names), log_loss, None, design, performance)


def mixed_modal(first: np.ndarray, second: np.ndarray) -> Law:
    """The mixed-modal law with interaction, for the mean loss of runs on two modalities.

    Args:
      first, second: thetas of `chinchilla` on each modality alone: as published, these are fitted first, and
        the five numbers of the interaction to what is left. C is the synergy, the other terms are what
        competition costs; intervals of theirs leave out what is uncertain of `first` and `second`. Both
        exponents are positive: fitted freely to eight runs of ours, they were not, and the cost grew by
        dozens of orders of magnitude with the size.
    """
    alone = chinchilla()

    def base(runs):
        if runs.modalities != 2:
            raise UserError(f"mixed_modal: {runs.modalities} columns of tokens; give it two modalities")
        both = [alone.predict(theta, runs._replace(target=i)) for i, theta in enumerate((first, second))]
        return (both[0] + both[1]) / 2

    def log_loss(theta, runs):
        c, a, b = theta[:3]
        alpha, beta = np.exp(theta[3:])
        p, d = np.log(runs.parameters), np.log(all_tokens(runs))
        size, data = np.exp(a - alpha * p), np.exp(b - beta * d)
        slopes = np.stack([-np.ones_like(p), size, data, -alpha * size * p, -beta * data * d], 1)
        return _log(base(runs) - c + size + data, slopes)

    def begin(runs):
        return starts.interaction(runs.parameters, all_tokens(runs), runs.loss, base(runs))

    names, logs = ("C", "A", "B", "alpha", "beta"), (False, True, True, True, True)
    return Law("mixed-modal", names, logs, log_loss, begin)


def effective_data(modalities: Sequence[str], *, target: int = 0) -> Law:
    """Chinchilla on effective data: a token of another modality is worth w tokens of the target's own.

    w = 1: as good as its own; 0: no use; below 0: competition. Hernandez et al. (2102.01293) called it
    effective data transferred.
    """
    others = [index for index in range(len(modalities)) if index != target]

    def log_loss(theta, runs):
        if runs.modalities != len(modalities) or runs.target != target:
            raise UserError(f"effective_data: runs of target {runs.target}; it was made for {target}")
        e, a, b, alpha, beta, *w = theta
        total = all_tokens(runs)
        share, own = runs.tokens[:, others] / total[:, None], runs.tokens[:, target] / total
        ratio, slope_ratio = _log(own + share @ np.array(w), share)
        p, d = np.log(runs.parameters), np.log(total) + ratio
        log, (se, sa, sb) = _log_sum(np.broadcast_to(e, p.shape), a - alpha * p, b - beta * d)
        return log, np.column_stack([se, sa, sb, -sa * p, -sb * d, -(sb * beta)[:, None] * slope_ratio])

    def begin(runs):
        own, rest = runs.tokens[:, target], runs.tokens[:, others]
        return starts.effective_data(runs.parameters, own, rest, runs.loss)

    names = ("E", "A", "B", "alpha", "beta", *(f"w of {modalities[index]}" for index in others))
    logs = (True,) * 3 + (False,) * (len(names) - 3)
    return Law("effective data", names, logs, log_loss, begin)


def _log_tokens(tokens: np.ndarray) -> np.ndarray:
    if not (tokens > 0).all():
        row = int(np.flatnonzero(~(tokens > 0))[0]) + 1
        raise UserError(f"tokens: 0 of the law's modality in run {row}; drop it, or fit all_tokens")
    return np.log(tokens)


def _log_sum(*terms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of the sum of exp(term), and the share of every term in it."""
    stacked = np.stack(terms)
    top = stacked.max(0)
    weights = np.exp(stacked - top)
    total = weights.sum(0)
    return top + np.log(total), weights / total


def _log(value: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of values [R] that have `slopes` [R, K], a straight line below FLOOR; and its slopes."""
    above = np.maximum(value, FLOOR)
    return np.log(above) + np.minimum(value / FLOOR - 1, 0), slopes / above[:, None]
