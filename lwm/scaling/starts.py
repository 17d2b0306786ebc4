"""Where a search for the parameters of a law begins: exponents on a grid, coefficients by least squares.

Once its exponents are given, a law is a sum of known columns with coefficients that may not be negative;
those come from non-negative least squares on relative errors. So a grid of few exponents begins as close to
the solution as one of thousands of starts over all parameters.
"""

import itertools

import numpy as np
from scipy.optimize import nnls

EXPONENTS = (0.1, 0.25, 0.5, 0.9, 1.5)
LEAST = 1e-3  # of the loss: what a term is given that least squares leaves out, so that it can grow back
WEIGHTS = (0.0, 0.3, 1.0)  # of tokens of other modalities


def chinchilla(parameters: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """[S, 5]: log E, log A, log B, alpha, beta."""
    found = []
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        columns = np.stack([np.ones_like(loss), parameters**-alpha, tokens**-beta], 1)
        found.append([*_log_coefficients(columns, loss), alpha, beta])
    return np.array(found)


def kaplan(parameters: np.ndarray, tokens: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """[S, 4]: log Nc, log Dc, log alpha_N, log alpha_D."""
    found = []
    for alpha_n, alpha_d in itertools.product((0.03, 0.08, 0.2, 0.5, 1.0), repeat=2):
        ratio = alpha_n / alpha_d
        powers = np.exp(np.log(loss) / alpha_d)
        if not np.isfinite(powers).all():
            continue
        columns = np.stack([parameters**-ratio, 1 / tokens], 1)
        size, data = _log_coefficients(columns, powers)
        found.append([size / ratio, data, np.log(alpha_n), np.log(alpha_d)])
    return np.array(found)


def interaction(parameters: np.ndarray, tokens: np.ndarray, loss: np.ndarray, base: np.ndarray) -> np.ndarray:
    """[S, 5]: C and the logarithms of A, B, alpha, beta of what is left of `loss` above `base` [runs]."""
    found = []
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        columns = np.stack([-np.ones_like(loss), parameters**-alpha, tokens**-beta], 1)
        shift = max(0.0, float((base - loss).max()))  # makes what is left positive; C may have either sign
        c, a, b = _coefficients(columns * [[-1, 1, 1]], loss - base + shift, loss)
        least = LEAST * loss.mean() / np.abs(columns[:, 1:]).mean(0)
        found.append([shift - c, *np.log(np.maximum([a, b], least)), *np.log([alpha, beta])])
    return np.array(found)


def effective_data(
    parameters: np.ndarray, own: np.ndarray, others: np.ndarray, loss: np.ndarray
) -> np.ndarray:
    """[S, 5 + other modalities]: as `chinchilla`, and the worth of a token of each other modality."""
    found = []
    for weight in itertools.product(WEIGHTS, repeat=others.shape[1]):
        tokens = np.maximum(own + others @ np.array(weight), 1e-3 * (own + others.sum(1)))
        found += [[*start, *weight] for start in chinchilla(parameters, tokens, loss)]
    return np.array(found)


def _coefficients(columns: np.ndarray, wanted: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """x >= 0 with columns @ x close to `wanted` in units of `loss`; columns of any size."""
    table = columns / loss[:, None]
    size = np.abs(table).max(0)
    return nnls(table / size, wanted / loss)[0] / size


def _log_coefficients(columns: np.ndarray, loss: np.ndarray) -> np.ndarray:
    least = LEAST * loss.mean() / columns.mean(0)
    return np.log(np.maximum(_coefficients(columns, loss, loss), least))
