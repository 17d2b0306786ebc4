"""The forward process, its predictions and their losses, against float64 from the papers' definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops import diffusion
from lwm.ops.diffusion import PREDICTIONS, SCHEDULES, make_schedule

TIMES = 50


def betas(name):
    """float64 [TIMES], one after another from the definitions."""
    if name == "linear":
        return np.array([1e-4 + (0.02 - 1e-4) * t / (TIMES - 1) for t in range(TIMES)])
    if name == "scaled_linear":
        first, last = np.sqrt(0.00085), np.sqrt(0.012)
        return np.array([(first + (last - first) * t / (TIMES - 1)) ** 2 for t in range(TIMES)])

    def kept(t):
        return np.cos((t / TIMES + 0.008) / 1.008 * np.pi / 2) ** 2

    return np.array([min(1 - kept(t + 1) / kept(t), 0.999) for t in range(TIMES)])


@pytest.fixture
def batch(rng):
    """(x_0, ε, times, what a network might predict): at all kinds of times, first and last too."""
    x0, noise, predicted = rng.normal(size=(3, 12, 2, 3, 2)).astype(np.float32)
    times = rng.integers(0, TIMES, 12).astype(np.int32)
    times[:2] = 0, TIMES - 1
    return x0, noise, times, predicted


def at(name, times):
    """float64 (signal, noise), [B, 1, 1, 1], by the product of 1 - β."""
    kept = np.cumprod(1 - betas(name))[times].reshape(-1, 1, 1, 1)
    return np.sqrt(kept), np.sqrt(1 - kept)


@pytest.mark.parametrize("name", SCHEDULES)
def test_moments_of_the_forward_process(name):
    """Noised step by step, q(x_t | x_{t-1}), data have the mean and the variance that the table says."""
    schedule, mean, variance = make_schedule(name, TIMES), 1.0, 0.0
    for t, beta in enumerate(betas(name)):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        np.testing.assert_allclose([schedule.signal[t], schedule.noise[t] ** 2], [mean, variance], rtol=1e-9)


def test_drawn_moments(rng):
    """Mean and variance of 40 000 draws at three times, to four standard errors."""
    count, schedule, x0 = 40_000, make_schedule("cosine", TIMES), 0.7
    for t in (0, 20, 49):
        noise = jnp.asarray(rng.normal(size=(1, count)), jnp.float32)
        x = diffusion.add_noise(jnp.full((1, count), x0), noise, jnp.array([t]), schedule)
        signal, spread = schedule.signal[t], schedule.noise[t]
        assert abs(np.mean(x) - signal * x0) < 4 * spread / count**0.5
        assert abs(np.var(x) / spread**2 - 1) < 4 * (2 / count) ** 0.5


def test_the_first_noise_keeps_its_digits():
    """At 10^7 times the first noise is 1e-6 of nothing, which 1 - signal² would round away in float32."""
    schedule = diffusion.linear_schedule(1000, first=1e-12, last=1e-11)
    np.testing.assert_allclose(np.float32(schedule.noise[0]), 1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predictions_and_their_conversions(name, prediction, batch):
    x0, noise, times, predicted = batch
    schedule = make_schedule(name, TIMES)
    a, s = at(name, times)
    x = a * x0 + s * noise
    np.testing.assert_allclose(diffusion.add_noise(x0, noise, times, schedule), x, atol=1e-6)
    wanted = {"epsilon": noise, "v": a * noise - s * x0}[prediction]
    about = times, schedule
    got = diffusion.target(x0, noise, *about, prediction=prediction)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    # Of any prediction: the pair (x_0, ε) that it implies is the one that makes x_t, and v follows from it.
    p = predicted.astype(np.float64)
    implied_noise = p if prediction == "epsilon" else s * x + a * p
    implied_x0 = (x - s * implied_noise) / a
    x = x.astype(np.float32)
    for fn, expected in (
        (diffusion.predicted_noise, implied_noise),
        (diffusion.predicted_x0, implied_x0),
        (diffusion.predicted_v, a * implied_noise - s * implied_x0),
    ):
        got = np.asarray(fn(predicted, x, *about, prediction=prediction))
        size = np.abs(expected).max(axis=(1, 2, 3), keepdims=True)
        np.testing.assert_allclose(got / size, expected / size, atol=2e-5, err_msg=fn.__name__)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 5.0])
def test_min_snr_weighs_errors_of_x0(prediction, gamma, batch):
    """The loss is min(SNR, γ) times the squared error of the x_0 that the prediction implies."""
    x0, noise, times, predicted = batch
    schedule = make_schedule("linear", TIMES)
    a, s = at("linear", times)
    got = diffusion.denoising_loss(predicted, x0, noise, times, schedule, prediction=prediction, gamma=gamma)
    x0, x, p = x0.astype(np.float64), a * x0 + s * noise, predicted.astype(np.float64)
    if gamma:
        implied = (x - s * p) / a if prediction == "epsilon" else a * x - s * p
        weights = np.minimum((a / s) ** 2, gamma)
        expected = np.mean(weights * (implied - x0) ** 2, axis=(1, 2, 3))
    else:
        wanted = noise if prediction == "epsilon" else a * noise - s * x0
        expected = np.mean((p - wanted) ** 2, axis=(1, 2, 3))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_draws_for_a_training_step():
    """Times are even; the offset is one number a channel; the perturbation is in x and not in ε."""
    schedule, x0 = make_schedule("cosine", 4), jnp.zeros((4000, 8, 2))
    draw = jax.jit(
        lambda key, **o: diffusion.draw_noised(key, x0, schedule, **o),
        static_argnames=("offset", "perturbation"),
    )
    plain = draw(jax.random.key(0))
    assert np.all(np.abs(np.bincount(plain.times_B, minlength=4) - 1000) < 4 * 750**0.5)
    spread = schedule.noise[plain.times_B][:, None, None]
    np.testing.assert_allclose(plain.x, spread * plain.noise, atol=1e-6)
    other = draw(jax.random.key(0), offset=2.0, perturbation=0.5)
    shift = np.asarray(other.noise - plain.noise)
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1], shift.shape), atol=1e-5)
    np.testing.assert_allclose(np.std(shift[:, 0]), 2.0, rtol=0.05)
    hidden = np.asarray(other.x) / spread - other.noise
    np.testing.assert_allclose(np.std(hidden), 0.5, rtol=0.05)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda s: make_schedule("quadratic", 10), "schedule: 'quadratic'; one of cosine, linear, scaled"),
        (lambda s: make_schedule("cosine", 0), "times: 0; a whole number, 1 or more"),
        (lambda s: diffusion.min_snr_weights(s, prediction="v", gamma=-1), "gamma: -1; .* above 0"),
        (
            lambda s: diffusion.min_snr_weights(s, prediction="x", gamma=5),
            "prediction: 'x'; one of epsilon, v",
        ),
        (lambda s: diffusion.draw_noised(jax.random.key(0), jnp.ones((1, 2)), s, offset=-1), "offset: -1; "),
        (lambda s: diffusion.target(1, 1, 0, s, prediction="score"), "prediction: 'score'; one of"),
        (
            lambda s: diffusion.denoising_loss(
                jnp.ones((2, 3)), jnp.ones((2, 4)), jnp.ones((2, 4)), jnp.array([0, 1]), s, prediction="v"
            ),
            r"predicted: shape \(2, 3\); needs \(2, 4\)",
        ),
    ],
)
def test_bad_arguments_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call(make_schedule("linear", 10))
    assert "\n" not in str(error.value)
