"""Diffusion (2006.11239): how noise is added to data, what a network predicts, and what its error costs.

    x_t = signal_t x_0 + noise_t ε,   signal_t² + noise_t² = 1,   t = 0 … N - 1 from hardly noised to noise
    ε-prediction: ε                   v-prediction (2202.00512): v = signal_t ε - noise_t x_0

Data may have any dimensions behind the first, which is the batch; pictures are BHWC in about [-1, 1].
Schedules are tables in float64 of NumPy, constants to a compiled program; arithmetic on data is float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PREDICTIONS = ("epsilon", "v")


class Schedule(NamedTuple):
    """How much of x_0 and of ε there is at each of N times.

    Attributes:
      signal, noise: float64 [N]; squares add up to 1. The noise is no difference of the signal from 1, which
        would lose its digits at the first times.
    """

    signal: np.ndarray
    noise: np.ndarray


class Noised(NamedTuple):
    """A batch on its way to the network.

    Attributes:
      x: x_t, float32 [B, ...].
      times_B: int32, drawn evenly from 0 … N - 1.
      noise: ε, float32 [B, ...], what is to be predicted.
    """

    x: jax.Array
    times_B: jax.Array
    noise: jax.Array


def cosine_schedule(times: int, *, offset: float = 0.008, largest: float = 0.999) -> Schedule:
    """Improved DDPM's (2102.09672, equation 17): signal² is a squared cosine, with β up to `largest`."""
    _check_times(times)
    angles = (np.arange(times + 1) / times + offset) / (1 + offset) * np.pi / 2
    kept = np.cos(angles) ** 2
    return _from_betas(np.minimum(1 - kept[1:] / kept[:-1], largest))


def linear_schedule(times: int, *, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """DDPM's (2006.11239, section 4): β grows evenly; the bounds are those of 1000 times."""
    _check_times(times)
    return _from_betas(np.linspace(first, last, times))


def scaled_linear_schedule(times: int, *, first: float = 0.00085, last: float = 0.012) -> Schedule:
    """Stable Diffusion's (2112.10752, its released settings): the square root of β grows evenly."""
    _check_times(times)
    return _from_betas(np.linspace(first**0.5, last**0.5, times) ** 2)


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule, "scaled_linear": scaled_linear_schedule}


def make_schedule(name: str, times: int) -> Schedule:
    """The schedule of that name with its published bounds.

    Raises:
      ValueError: an unknown name, or times < 1.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule: {name!r}; one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](times)


def add_noise(x0: jax.Array, noise: jax.Array, times_B: jax.Array, schedule: Schedule) -> jax.Array:
    """x_t, float32: a draw from q(x_t | x_0) if `noise` is one from N(0, 1)."""
    signal, spread = _at(schedule, times_B, x0.ndim)
    return signal * x0.astype(jnp.float32) + spread * noise


def draw_noised(
    key: jax.Array, x0: jax.Array, schedule: Schedule, *, offset: float = 0.0, perturbation: float = 0.0
) -> Noised:
    """Times and noise for a training step.

    Args:
      x0: [B, ...], the channels last.
      offset: noise of this standard deviation that is equal at all places of a channel is added to ε, so that
        the mean brightness is noised as well.
      perturbation: x_t is made of ε and of this much other noise, which is not to be predicted (2301.11706).

    Raises:
      ValueError: offset or perturbation below 0.
    """
    for name, value in (("offset", offset), ("perturbation", perturbation)):
        if value < 0:
            raise ValueError(f"{name}: {value}; a standard deviation, 0 or more")
    time_key, noise_key, offset_key, other_key = jax.random.split(key, 4)
    times_B = jax.random.randint(time_key, x0.shape[:1], 0, len(schedule.signal))
    noise = jax.random.normal(noise_key, x0.shape)
    if offset:
        flat = (x0.shape[0], *[1] * (x0.ndim - 2), x0.shape[-1])
        noise += offset * jax.random.normal(offset_key, flat)
    seen = noise + perturbation * jax.random.normal(other_key, x0.shape) if perturbation else noise
    return Noised(add_noise(x0, seen, times_B, schedule), times_B, noise)


def target(
    x0: jax.Array, noise: jax.Array, times_B: jax.Array, schedule: Schedule, *, prediction: str
) -> jax.Array:
    """What a network should predict, float32."""
    check_prediction(prediction)
    if prediction == "epsilon":
        return noise.astype(jnp.float32)
    signal, spread = _at(schedule, times_B, x0.ndim)
    return signal * noise - spread * x0.astype(jnp.float32)


def predicted_x0(
    predicted: jax.Array, x: jax.Array, times_B: jax.Array, schedule: Schedule, *, prediction: str
) -> jax.Array:
    """x_0, float32, as a prediction at x_t = `x` implies it."""
    check_prediction(prediction)
    signal, spread = _at(schedule, times_B, x.ndim)
    if prediction == "epsilon":
        return (x - spread * predicted) / signal
    return signal * x - spread * predicted


def predicted_noise(
    predicted: jax.Array, x: jax.Array, times_B: jax.Array, schedule: Schedule, *, prediction: str
) -> jax.Array:
    """ε, float32, as a prediction at x_t = `x` implies it."""
    check_prediction(prediction)
    if prediction == "epsilon":
        return predicted.astype(jnp.float32)
    signal, spread = _at(schedule, times_B, x.ndim)
    return spread * x + signal * predicted


def predicted_v(
    predicted: jax.Array, x: jax.Array, times_B: jax.Array, schedule: Schedule, *, prediction: str
) -> jax.Array:
    """v, float32, as a prediction at x_t = `x` implies it."""
    check_prediction(prediction)
    if prediction == "v":
        return predicted.astype(jnp.float32)
    signal, spread = _at(schedule, times_B, x.ndim)
    return (predicted - spread * x) / signal


def min_snr_weights(schedule: Schedule, *, prediction: str, gamma: float) -> np.ndarray:
    """float64 [N], the weight of a squared error of the prediction at each time (2303.09556, section 3.4).

    With SNR = signal² / noise² the error of x_0 weighs min(SNR, γ); an error of ε is 1 / SNR of that, and one
    of v is 1 / (SNR + 1).

    Args:
      gamma: the paper's is 5; 0 = all weights are 1.

    Raises:
      ValueError: gamma < 0, or an unknown prediction.
    """
    check_prediction(prediction)
    if gamma < 0:
        raise ValueError(f"gamma: {gamma}; a bound for the signal-to-noise ratio above 0, or 0 for none")
    if not gamma:
        return np.ones_like(schedule.signal)
    ratio = (schedule.signal / schedule.noise) ** 2
    return np.minimum(ratio, gamma) / (ratio if prediction == "epsilon" else ratio + 1)


def denoising_loss(
    predicted: jax.Array,
    x0: jax.Array,
    noise: jax.Array,
    times_B: jax.Array,
    schedule: Schedule,
    *,
    prediction: str,
    gamma: float = 0.0,
) -> jax.Array:
    """float32 [B]: the weighted mean squared error of each example, over all its dimensions.

    Args:
      predicted: [B, ...], of the network at `add_noise(x0, noise, times_B, schedule)`.
      prediction: "epsilon" or "v", which it is.
      gamma: of `min_snr_weights`.

    Raises:
      ValueError: an unknown prediction, gamma < 0, or a prediction of another shape than the data.
    """
    if predicted.shape != x0.shape:
        raise ValueError(f"predicted: shape {predicted.shape}; needs {x0.shape}, that of x0")
    weights = min_snr_weights(schedule, prediction=prediction, gamma=gamma)
    wanted = target(x0, noise, times_B, schedule, prediction=prediction)
    error_B = jnp.mean((predicted.astype(jnp.float32) - wanted) ** 2, axis=range(1, x0.ndim))
    return error_B * jnp.asarray(weights, jnp.float32)[times_B]


def check_prediction(prediction: str) -> None:
    """Raises ValueError for a kind of prediction that there is not."""
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction: {prediction!r}; one of {', '.join(PREDICTIONS)}")


def _check_times(times):
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ValueError(f"times: {times!r}; a whole number, 1 or more")


def _from_betas(betas):
    # log(1 - β) added up, and 1 - exp(·) of the sum: the first noises keep all their digits.
    log_kept = np.cumsum(np.log1p(-betas))
    return Schedule(signal=np.exp(log_kept / 2), noise=np.sqrt(-np.expm1(log_kept)))


def _at(schedule, times_B, dimensions):
    """float32 signal and noise of each example, to be multiplied with arrays of so many dimensions."""
    shape = (-1, *[1] * (dimensions - 1))
    return tuple(jnp.asarray(table, jnp.float32)[times_B].reshape(shape) for table in schedule)
