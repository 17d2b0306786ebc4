"""A judge of pictures: a small convolutional network that answers closed questions about them.

It learns from real pictures and their answers alone, with a seed of its own, so no model that draws has had a
part in it. Its last hidden layer is where FD-cls is measured (`creation.py`).
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

FEATURES = 32  # few, as held-out pictures are few: a covariance of more would have no full rank
STEPS, BATCH, RATE, MOVE = 500, 64, 3e-3, 2  # MOVE: pixels by which training pictures are shifted at most


class Judge(NamedTuple):
    """The trained network; `classes` is (question, number of answers) in the order of its heads."""

    params: Any
    classes: tuple[tuple[str, int], ...]

    def features(self, pictures_NHWC: np.ndarray) -> np.ndarray:
        """float32 [N, FEATURES] of pictures uint8."""
        return np.asarray(_apply(self.params, pictures_NHWC, self.classes)[0])

    def answers(self, pictures_NHWC: np.ndarray) -> dict[str, np.ndarray]:
        """The number of the likeliest answer, int [N], to each question."""
        logits = _apply(self.params, pictures_NHWC, self.classes)[1]
        return {question: np.asarray(jnp.argmax(own, axis=-1)) for question, own in logits.items()}


def train_judge(
    pictures_NHWC: np.ndarray, answers: Mapping[str, np.ndarray], *, seed: int = 0, steps: int = STEPS
) -> Judge:
    """The judge, a function of its arguments alone.

    Args:
        pictures_NHWC: uint8, square.
        answers: {question: int [N]}, numbers of answers from 0 on; -1 = there is none.

    Raises:
        ValueError: no pictures, no questions, or another number of answers than of pictures.
    """
    for question, own in answers.items():
        if own.shape != (len(pictures_NHWC),) or not len(own) or own.max() < 0:
            raise ValueError(f"answers: {question!r} has {own.shape} for {len(pictures_NHWC)} pictures")
    if not answers:
        raise ValueError("answers: {} leave nothing to learn; give those to one question")
    classes = tuple((question, int(own.max()) + 1) for question, own in answers.items())
    known = {question: jnp.asarray(own) for question, own in answers.items()}
    x_NHWC, (first_key, key) = jnp.asarray(pictures_NHWC), jax.random.split(jax.random.key(seed))
    params = _Network(classes).init(first_key, x_NHWC[:1])
    optimizer = optax.adamw(optax.cosine_decay_schedule(RATE, steps), weight_decay=0.1)

    def loss(params, x_BHWC, wanted):
        _, logits = _Network(classes).apply(params, x_BHWC)
        total = jnp.float32(0)
        for question, own in logits.items():
            there_B = wanted[question] >= 0
            labels_B = jnp.maximum(wanted[question], 0)
            nll_B = optax.softmax_cross_entropy_with_integer_labels(own, labels_B)
            total += jnp.sum(nll_B * there_B) / jnp.maximum(jnp.sum(there_B), 1)
        return total

    @jax.jit
    def step(params, moments, key):
        chosen_key, move_key = jax.random.split(key)
        at_B = jax.random.randint(chosen_key, (BATCH,), 0, len(x_NHWC))
        wanted = {question: own[at_B] for question, own in known.items()}
        gradient = jax.grad(loss)(params, _moved(move_key, x_NHWC[at_B]), wanted)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments

    moments = optimizer.init(params)
    for step_key in jax.random.split(key, steps):
        params, moments = step(params, moments, step_key)
    return Judge(params, classes)


class _Network(nn.Module):
    """Three convolutions of stride 2, their mean and largest values, a hidden layer, a head a question."""

    classes: tuple[tuple[str, int], ...]

    @nn.compact
    def __call__(self, pictures_NHWC):
        x_NHWC = pictures_NHWC.astype(jnp.float32) / 127.5 - 1
        for channels in (24, 48, 96):
            x_NHWC = nn.relu(nn.GroupNorm(8)(nn.Conv(channels, (3, 3), strides=2)(x_NHWC)))
        pooled_NC = jnp.concatenate([x_NHWC.mean(axis=(1, 2)), x_NHWC.max(axis=(1, 2))], axis=-1)
        features_NF = nn.tanh(nn.Dense(FEATURES)(pooled_NC))
        heads = {question: nn.Dense(count)(features_NF) for question, count in self.classes}
        return features_NF, heads


@functools.partial(jax.jit, static_argnames="classes")
def _apply(params, pictures_NHWC, classes):
    return _Network(classes).apply(params, pictures_NHWC)


def _moved(key, x_BHWC):
    """Each picture shifted by up to MOVE pixels; its border is filled with its edge."""
    H, W = x_BHWC.shape[1:3]
    padded = jnp.pad(x_BHWC, ((0, 0), (MOVE, MOVE), (MOVE, MOVE), (0, 0)), mode="edge")
    starts_B2 = jax.random.randint(key, (len(x_BHWC), 2), 0, 2 * MOVE + 1)

    def cut(x_HWC, start_2):
        return jax.lax.dynamic_slice(x_HWC, (*start_2, 0), (H, W, x_HWC.shape[-1]))

    return jax.vmap(cut)(padded, starts_B2)
