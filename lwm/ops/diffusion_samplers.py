"""From noise to data: DDIM (2010.02502), DPM-Solver++ (2211.01095) and classifier-free guidance (2207.12598).

Each step of either sampler is linear in what it knows,

    x ← a x + b x̂_0 + c x̂_0 of the step before + d z,   z fresh from N(0, 1),

so a sampler is a table of (a, b, c, d), made in float64 before anything runs: a `Route`. `sample` scans over
it; `start` and `advance` are its pieces for callers that want to see every step.

Times are spread evenly and end with the last, which is the one that was trained to be noise ("trailing",
2305.08891, table 2); the last step leads to no noise at all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lwm.ops.diffusion import Schedule, check_prediction, predicted_x0

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]  # (x_t [B, ...], times int32 [B]) -> prediction


class Route(NamedTuple):
    """The steps of a sampler, in order.

    Attributes:
      times: int32 [steps], falling, at which the network is asked.
      x, now, before, fresh: float32 [steps], the factors a, b, c and d of the top of this file.
    """

    times: np.ndarray
    x: np.ndarray
    now: np.ndarray
    before: np.ndarray
    fresh: np.ndarray


class State(NamedTuple):
    """Between two steps.

    Attributes:
      x: float32 [B, ...], the data so far.
      before: float32 [B, ...], x_0 as it was predicted last.
      key: for fresh noise; None = there is none on this route.
    """

    x: jax.Array
    before: jax.Array
    key: jax.Array | None


def ddim_route(schedule: Schedule, steps: int, *, eta: float = 0.0) -> Route:
    """DDIM (2010.02502, equations 12 and 16).

    Args:
      steps: 1 … N.
      eta: 0 = no fresh noise, the data are a function of the noise at the start; 1 = ancestral sampling.

    Raises:
      ValueError: steps or eta out of range.
    """
    times, signal, noise = _stations(schedule, steps)
    if not 0 <= eta <= 1:
        raise ValueError(f"eta: {eta}; from 0 (no fresh noise) to 1 (ancestral)")
    fresh = eta * noise[1:] / noise[:-1] * np.sqrt(1 - (signal[:-1] / signal[1:]) ** 2)
    # The direction to x_t is ε̂ = (x - signal x̂_0) / noise, and this much of it remains.
    remains = np.sqrt(np.maximum(noise[1:] ** 2 - fresh**2, 0)) / noise[:-1]
    return _route(times, remains, signal[1:] - remains * signal[:-1], np.zeros(steps), fresh)


def dpm_solver_route(schedule: Schedule, steps: int) -> Route:
    """DPM-Solver++(2M) (2211.01095, algorithm 2): second order, one prediction a step, no fresh noise.

    The first step, which has no step before it, and the last, for which log(signal / noise) has no end, are
    of first order.

    Raises:
      ValueError: steps out of range.
    """
    times, signal, noise = _stations(schedule, steps)
    ratio = signal[:-1] * noise[1:] / (noise[:-1] * signal[1:])  # exp(-h)
    first_order = signal[1:] * (1 - ratio)
    second = np.zeros(steps)
    h = -np.log(ratio[:-1])
    second[1:-1] = first_order[1:-1] * h[1:] / (2 * h[:-1])
    return _route(times, noise[1:] / noise[:-1], first_order + second, -second, np.zeros(steps))


ROUTES = {"ddim": ddim_route, "dpm": dpm_solver_route}


def make_route(method: str, schedule: Schedule, steps: int, *, eta: float = 0.0) -> Route:
    """The route of "ddim" or "dpm" (DPM-Solver++, which has no eta).

    Raises:
      ValueError: an unknown method; steps or eta out of range; eta > 0 for "dpm".
    """
    if method not in ROUTES:
        raise ValueError(f"method: {method!r}; one of {', '.join(ROUTES)}")
    if method == "ddim":
        return ddim_route(schedule, steps, eta=eta)
    if eta:
        raise ValueError(f"eta: {eta}; DPM-Solver++ adds no fresh noise, so 0, or method ddim")
    return dpm_solver_route(schedule, steps)


def start(noise: jax.Array, key: jax.Array | None = None) -> State:
    """Before the first step, from noise of N(0, 1); routes with fresh noise need a key."""
    noise = noise.astype(jnp.float32)
    return State(noise, jnp.zeros_like(noise), key)


def advance(
    denoise: Denoiser, state: State, leg: Route, schedule: Schedule, *, prediction: str, clip: float = 0.0
) -> State:
    """One step; `leg` is a route of scalars, `jax.tree.map(lambda x: x[i], route)`.

    clip: x_0 is known to lie within ±clip, and predictions of it are cut to that; 0 = it is not known.
    """
    times_B = jnp.full(state.x.shape[:1], leg.times, jnp.int32)
    predicted = denoise(state.x, times_B).astype(jnp.float32)
    now = predicted_x0(predicted, state.x, times_B, schedule, prediction=prediction)
    if clip:
        now = jnp.clip(now, -clip, clip)
    x, key = leg.x * state.x + leg.now * now + leg.before * state.before, state.key
    if key is not None:
        key, fresh_key = jax.random.split(key)
        x += leg.fresh * jax.random.normal(fresh_key, x.shape)
    return State(x, now, key)


def sample(
    denoise: Denoiser,
    noise: jax.Array,
    route: Route,
    schedule: Schedule,
    *,
    prediction: str,
    clip: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Data, float32 [B, ...], from noise.

    Args:
      denoise: (x_t, times int32 [B]) to a prediction; see `guided`.
      noise: [B, ...] from N(0, 1).
      route: of `make_route`, and of this schedule.
      prediction: "epsilon" or "v".
      clip: as for `advance`.
      key: for fresh noise; needed if the route adds any.

    Raises:
      ValueError: an unknown prediction, clip < 0, or a route with fresh noise without a key.
    """
    check_prediction(prediction)
    if clip < 0:
        raise ValueError(f"clip: {clip}; a bound for the data above 0, or 0 for none")
    if not np.any(route.fresh):
        key = None
    elif key is None:
        raise ValueError("key: None; a route with fresh noise (eta > 0) needs a key")

    def step(state, leg):
        return advance(denoise, state, leg, schedule, prediction=prediction, clip=clip), None

    return jax.lax.scan(step, start(noise, key), jax.tree.map(jnp.asarray, route))[0].x


def guided(
    denoise: Callable[[jax.Array, jax.Array, Any], jax.Array],
    condition: Any,
    unconditional: Any,
    guidance: float | jax.Array,
) -> Denoiser:
    """A denoiser that goes `guidance` times the way from the unconditional to the conditional prediction.

    Both are made in one pass of 2 B rows, the two of an example side by side: rows of a mesh stay where they
    are.

    Args:
      denoise: (x, times_B, condition) to a prediction.
      condition, unconditional: alike trees of arrays [B, ...].
      guidance: 0 = unconditional, 1 = conditional (then cheaper without this function), above 1 = more so.

    Raises:
      ValueError: guidance < 0, if it is a number and not traced.
    """
    check_guidance(guidance)
    both = jax.tree.map(_pairs, unconditional, condition)

    def predict(x, times_B):
        predicted = denoise(_pairs(x, x), _pairs(times_B, times_B), both)
        without, given = jnp.unstack(predicted.reshape(-1, 2, *predicted.shape[1:]), axis=1)
        return without + guidance * (given - without)

    return predict


def check_guidance(guidance: float | jax.Array) -> None:
    """Raises ValueError for a guidance below 0 or not finite."""
    if not isinstance(guidance, jax.core.Tracer) and not 0 <= guidance < float("inf"):
        raise ValueError(f"guidance: {guidance}; 0 (unconditional), 1 (conditional) or more")


def _pairs(a, b):
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _stations(schedule, steps):
    """Times, and signal and noise at these and, last, where there is no noise: [steps] and [steps + 1]."""
    most = len(schedule.signal)
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise ValueError(f"steps: {steps!r}; a whole number from 1 to the {most} times of the schedule")
    times = np.round(np.linspace(most, 0, steps, endpoint=False)).astype(np.int32) - 1
    return times, np.append(schedule.signal[times], 1.0), np.append(schedule.noise[times], 0.0)


def _route(times, *factors):
    return Route(times, *(factor.astype(np.float32) for factor in factors))
