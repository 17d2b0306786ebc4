"""Samplers against the papers' steps in float64, and against a Gaussian whose best denoiser is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.diffusion import PREDICTIONS, make_schedule
from lwm.ops.diffusion_samplers import advance, guided, make_route, sample, start

# A Gaussian of two independent dimensions.
MEAN, SPREAD = np.array([0.5, -0.3]), np.array([0.3, 0.8])


def gaussian(schedule, prediction):
    """The best denoiser of N(MEAN, SPREAD²): x̂_0 is the mean of the posterior of x_0 given x_t."""
    signal, noise = (jnp.asarray(table, jnp.float32) for table in schedule)

    def denoise(x, times_B):
        a, s = signal[times_B][:, None], noise[times_B][:, None]
        x0 = MEAN + a * SPREAD**2 / (a**2 * SPREAD**2 + s**2) * (x - a * MEAN)
        eps = (x - a * x0) / s
        return eps if prediction == "epsilon" else a * eps - s * x0

    return denoise


def run(method, steps, noise, *, name="cosine", prediction="v", eta=0.0, **options):
    schedule = make_schedule(name, 1000)
    route = make_route(method, schedule, steps, eta=eta)
    denoise, key = gaussian(schedule, prediction), jax.random.key(1)
    return np.asarray(
        sample(denoise, noise, route, schedule, prediction=prediction, key=key, **options), np.float64
    )


@pytest.mark.parametrize(
    "method, steps, options",
    [
        ("ddim", 250, dict(prediction="epsilon")),
        ("ddim", 250, dict(eta=1.0)),
        ("ddim", 250, dict(eta=0.5)),
        ("dpm", 40, dict(prediction="epsilon")),
        ("dpm", 40, dict()),
    ],
    ids=str,
)
def test_a_gaussian_is_recovered(method, steps, options):
    """Mean and variance of 20 000 samples, to four standard errors and 1 % of the sampler's own."""
    count = 20_000
    x = run(method, steps, jax.random.normal(jax.random.key(0), (count, 2)), **options)
    assert np.all(np.abs(x.mean(axis=0) - MEAN) < SPREAD * (4 / count**0.5 + 0.01))
    assert np.all(np.abs(x.var(axis=0) / SPREAD**2 - 1) < 4 * (2 / count) ** 0.5 + 0.01)
    assert abs(np.corrcoef(x.T)[0, 1]) < 4 / count**0.5


@pytest.mark.parametrize("method, order", [("ddim", 1), ("dpm", 2)])
def test_errors_fall_with_the_order_of_the_solver(method, order):
    """Four times the steps, towards the exact solution of the probability flow.

    It keeps by how many deviations a point is off the mean.
    """
    noise = jnp.array([[1.0, -0.5], [-2.0, 1.5]])
    exact = MEAN + SPREAD * np.asarray(noise)
    errors = [np.max(np.abs(run(method, steps, noise) - exact)) for steps in (10, 40)]
    assert errors[0] / errors[1] > 0.8 * 4**order


def stations(schedule, steps):
    """float64 lists of times, signal and noise, the last station without noise."""
    times = [round(1000 * (steps - i) / steps) - 1 for i in range(steps)]
    kept = [*(float(schedule.signal[t]) ** 2 for t in times), 1.0]
    return times, [k**0.5 for k in kept], [max(1 - k, 0.0) ** 0.5 for k in kept]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_a_step_of_ddim(rng, prediction, eta):
    """2010.02502, equation 12 with the σ of equation 16, at every step; the fresh noise by its spread."""
    schedule, steps = make_schedule("linear", 1000), 5
    route = make_route("ddim", schedule, steps, eta=eta)
    times, signal, noise = stations(schedule, steps)
    np.testing.assert_array_equal(route.times, times)
    x, p = rng.normal(size=(2, 1, 4000))
    for i in range(steps):
        leg = jax.tree.map(lambda factors, i=i: jnp.asarray(factors[i]), route)
        state = start(jnp.asarray(x), jax.random.key(i))
        got = np.asarray(
            advance(lambda *_: jnp.asarray(p), state, leg, schedule, prediction=prediction).x, np.float64
        )
        eps = p if prediction == "epsilon" else noise[i] * x + signal[i] * p
        x0 = (x - noise[i] * eps) / signal[i]
        ratio = (noise[i + 1] / noise[i]) ** 2 * (1 - (signal[i] / signal[i + 1]) ** 2)
        sigma = eta * ratio**0.5
        mean = signal[i + 1] * x0 + (noise[i + 1] ** 2 - sigma**2) ** 0.5 * eps
        np.testing.assert_allclose(np.std(got - mean), sigma, rtol=0.06, atol=1e-4)
        if not sigma:
            np.testing.assert_allclose(got, mean, rtol=1e-4, atol=1e-4)


def test_eta_1_is_ancestral_sampling(rng):
    """With as many steps as times, eta = 1 is the posterior of DDPM (2006.11239, equations 6 and 7)."""
    schedule = make_schedule("cosine", 30)
    route = make_route("ddim", schedule, 30, eta=1.0)
    kept = np.append(schedule.signal[::-1] ** 2, 1.0)
    beta = 1 - kept[:-1] / kept[1:]
    np.testing.assert_allclose(route.now, kept[1:] ** 0.5 * beta / (1 - kept[:-1]), rtol=1e-4)
    x = (1 - beta) ** 0.5 * (1 - kept[1:]) / (1 - kept[:-1])
    np.testing.assert_allclose(route.x, x, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(route.fresh**2, (1 - kept[1:]) / (1 - kept[:-1]) * beta, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_steps_of_dpm_solver(rng, steps):
    """2211.01095, algorithm 2, in float64 with a denoiser that is no straight line."""
    schedule = make_schedule("scaled_linear", 1000)
    times, signal, noise = stations(schedule, steps)
    x = first = rng.normal(size=(1, 6))
    before, last_h = None, None
    for i in range(steps):
        eps = np.sin(x) + times[i] / 1000
        x0 = (x - noise[i] * eps) / signal[i]
        if i + 1 == steps:
            x = x0
            break
        h = np.log(signal[i + 1] / noise[i + 1]) - np.log(signal[i] / noise[i])
        D = x0
        if before is not None:
            r = last_h / h
            D = (1 + 1 / (2 * r)) * x0 - before / (2 * r)
        x = noise[i + 1] / noise[i] * x - signal[i + 1] * (np.exp(-h) - 1) * D
        before, last_h = x0, h
    got = sample(
        lambda x, times_B: jnp.sin(x) + times_B[:, None] / 1000,
        jnp.asarray(first),
        make_route("dpm", schedule, steps),
        schedule,
        prediction="epsilon",
    )
    np.testing.assert_allclose(got, x, rtol=2e-4, atol=2e-4)


def test_clipping_bounds_what_is_predicted():
    x = run("ddim", 10, jax.random.normal(jax.random.key(0), (500, 2)), clip=0.25)
    assert np.abs(x).max() <= 0.25 + 1e-6


def test_guidance_is_a_way_from_one_prediction_to_the_other(rng):
    """w = 0, 1 and between; each row meets its own condition, whose tree may have several arrays."""
    x, given, without = rng.normal(size=(3, 5, 2)).astype(np.float32)
    times = jnp.arange(5)

    def denoise(x, times_B, condition):
        return x * condition["scale"] + times_B[:, None]

    for w in (0.0, 1.0, 2.5):
        got = guided(denoise, {"scale": given}, {"scale": without}, w)(x, times)
        expected = x * (without + w * (given - without)) + np.arange(5)[:, None]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: make_route("ddim", s, 0), "steps: 0; a whole number from 1 to the 10 times"),
        (lambda s: make_route("dpm", s, 11), "steps: 11; a whole number from 1 to the 10 times"),
        (lambda s: make_route("ddim", s, 2.0), "steps: 2.0; a whole number"),
        (lambda s: make_route("euler", s, 5), "method: 'euler'; one of ddim, dpm"),
        (lambda s: make_route("ddim", s, 5, eta=1.5), "eta: 1.5; from 0"),
        (lambda s: make_route("dpm", s, 5, eta=0.5), "eta: 0.5; DPM-Solver"),
        (lambda s: guided(None, 0, 0, -0.5), "guidance: -0.5; 0 .* or more"),
        (lambda s: sample(None, 0, make_route("ddim", s, 5), s, prediction="x0"), "prediction: 'x0'; one of"),
        (lambda s: sample(None, 0, make_route("ddim", s, 5), s, prediction="v", clip=-1), "clip: -1; "),
        (
            lambda s: sample(None, 0, make_route("ddim", s, 5, eta=1), s, prediction="v"),
            "key: None; .* needs a key",
        ),
    ],
)
def test_bad_arguments_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(make_schedule("linear", 10))
    assert "\n" not in str(error.value)
