"""A judge of pictures: a small convolutional network that answers closed questions about them.

It learns from real pictures and their answers alone, with a seed of its own, so no model that draws has had a
part in it. Its last hidden layer is where FD-cls is measured (`creation.py`).
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

FEATURES = 32  # few, as held-out pictures are few: a covariance of more would have no full rank
CHANNELS = (24, 48, 96)  # of convolutions of 3 x 3 pixels and stride 2
STEPS, BATCH, RATE, DECAY = 1000, 64, 3e-3, 0.1  # of AdamW (1711.05101), the rate falls as a cosine
MOVE = 2  # pixels by which training pictures are shifted at most
_GROUPS = 8


class Judge(NamedTuple):
    """A trained network. layers: (kernel, bias) of convolutions and the hidden layer · heads: by question."""

    layers: list[tuple[Array, Array]]
    heads: dict[str, tuple[Array, Array]]

    def features(self, pictures_NHWC: np.ndarray) -> np.ndarray:
        """float32 [N, FEATURES] of pictures uint8."""
        return np.asarray(_read(self, pictures_NHWC)[0])

    def answers(self, pictures_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """The number of the likeliest answer, int [N], to each question."""
        logits = _read(self, pictures_NHWC)[1]
        return {question: np.asarray(jnp.argmax(own, axis=-1)) for question, own in logits.items()}


def train_judge(
    pictures_NHWC: np.ndarray, answers: Mapping[str, np.ndarray], *, seed: int = 0, steps: int = STEPS
) -> Judge:
    """The judge, a function of its arguments alone.

    Args:
        pictures_NHWC: uint8, square.
        answers: {question: int [N]}, numbers of answers from 0 on; -1 = there is none.

    Raises:
        ValueError: no questions, a question without answers, or with another number of them than of pictures.
    """
    for question, own in answers.items():
        if own.shape != (len(pictures_NHWC),) or not len(own) or own.max() < 0:
            raise ValueError(f"answers: {question!r} has {own.shape} for {len(pictures_NHWC)} pictures")
    if not answers:
        raise ValueError("answers: {} leave nothing to learn; give those to one question")
    first_key, key = jax.random.split(jax.random.key(seed))
    judge = _first(first_key, {question: int(own.max()) + 1 for question, own in answers.items()})
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps), b2=0.99, weight_decay=DECAY)
    x_NHWC, known = jnp.asarray(pictures_NHWC), {name: jnp.asarray(own) for name, own in answers.items()}

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(judge, moments, key):
        chosen_key, move_key = jax.random.split(key)
        at_B = jax.random.randint(chosen_key, (BATCH,), 0, len(x_NHWC))
        wanted = {question: own[at_B] for question, own in known.items()}
        gradient = jax.grad(_loss)(judge, _moved(move_key, x_NHWC[at_B]), wanted)
        updates, moments = optimizer.update(gradient, moments, judge)
        return optax.apply_updates(judge, updates), moments

    moments = optimizer.init(judge)
    for number in range(steps):
        judge, moments = step(judge, moments, jax.random.fold_in(key, number))
    return judge


def _first(key: Array, classes: Mapping[str, int]) -> Judge:
    """Random kernels (1502.01852), biases of 0."""

    def layer(key, *shape):
        return jax.random.normal(key, shape) * (2 / np.prod(shape[:-1])) ** 0.5, jnp.zeros(shape[-1])

    keys = iter(jax.random.split(key, len(CHANNELS) + 1 + len(classes)))
    sizes = zip((3, *CHANNELS), CHANNELS, strict=False)
    layers = [layer(next(keys), 3, 3, *size) for size in sizes]
    layers.append(layer(next(keys), 2 * CHANNELS[-1], FEATURES))
    return Judge(layers, {name: layer(next(keys), FEATURES, count) for name, count in classes.items()})


@jax.jit
def _read(judge: Judge, pictures_NHWC: Array) -> tuple[Array, dict[str, Array]]:
    """(features_NF, logits by question)"""
    x_NHWC = pictures_NHWC.astype(jnp.float32) / 127.5 - 1
    *convolutions, (kernel, bias) = judge.layers
    for own_kernel, own_bias in convolutions:
        dimensions = ("NHWC", "HWIO", "NHWC")
        x_NHWC = jax.lax.conv_general_dilated(
            x_NHWC, own_kernel, (2, 2), "SAME", dimension_numbers=dimensions
        )
        x_NHWC = jax.nn.relu(_normed(x_NHWC) + own_bias)
    pooled_NC = jnp.concatenate([x_NHWC.mean(axis=(1, 2)), x_NHWC.max(axis=(1, 2))], axis=-1)
    features_NF = jnp.tanh(pooled_NC @ kernel + bias)
    return features_NF, {name: features_NF @ own[0] + own[1] for name, own in judge.heads.items()}


def _normed(x_NHWC: Array) -> Array:
    """Of mean 0 and variance 1 over each picture and group of channels (1803.08494)."""
    x_NHWGC = x_NHWC.reshape(*x_NHWC.shape[:3], _GROUPS, -1)
    x_NHWGC -= x_NHWGC.mean(axis=(1, 2, 4), keepdims=True)
    x_NHWGC *= jax.lax.rsqrt(jnp.mean(x_NHWGC**2, axis=(1, 2, 4), keepdims=True) + 1e-5)
    return x_NHWGC.reshape(x_NHWC.shape)


def _loss(judge: Judge, pictures_BHWC: Array, wanted: Mapping[str, Array]) -> Array:
    """The sum over questions of the mean nats of the answers that there are."""
    total = jnp.float32(0)
    for question, logits_BK in _read(judge, pictures_BHWC)[1].items():
        there_B, labels_B = wanted[question] >= 0, jnp.maximum(wanted[question], 0)
        logs_BK = jax.nn.log_softmax(logits_BK)
        nll_B = -jnp.take_along_axis(logs_BK, labels_B[:, None], axis=1)[:, 0]
        total += jnp.sum(nll_B * there_B) / jnp.maximum(jnp.sum(there_B), 1)
    return total


def _moved(key, x_BHWC):
    """Each picture shifted by up to MOVE pixels; what comes in is as its edge."""
    H, W = x_BHWC.shape[1:3]
    padded = jnp.pad(x_BHWC, ((0, 0), (MOVE, MOVE), (MOVE, MOVE), (0, 0)), mode="edge")
    starts_B2 = jax.random.randint(key, (len(x_BHWC), 2), 0, 2 * MOVE + 1)

    def cut(x_HWC, start_2):
        return jax.lax.dynamic_slice(x_HWC, (*start_2, 0), (H, W, x_HWC.shape[-1]))

    return jax.vmap(cut)(padded, starts_B2)
