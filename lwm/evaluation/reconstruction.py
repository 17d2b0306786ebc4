"""How well a VQGAN rebuilds frames that it was not trained on, and how much of its codebook they need."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lwm.errors import UserError
from lwm.models.codebook import usage_and_perplexity


def evaluate(
    model: Any, params: dict, images: np.ndarray, *, batch_size: int = 64
) -> Iterator[tuple[str, float]]:
    """Encodes and decodes all frames through uint8, as they would be stored and shown.

    Args:
        model: a VQGAN: `encode(params, images) -> codes_BP`, `decode(params, codes_BP) -> images` and
            `config.codes`.
        params: its parameters.
        images: uint8 [frames, H, W, 3].
        batch_size: frames at a time; the last batch is filled up and what it was filled with not counted.

    Yields:
        ("psnr", mean over frames of their peak signal-to-noise ratio in dB),
        ("psnr_mean_colour", the same if each frame were one flat picture of its own mean colour, a harder
        rival than one colour for all frames),
        ("psnr_gain", their difference), ("code_usage", fraction of the codebook that occurs at all),
        ("code_perplexity", exp of the entropy in nats of how often codes occur), ("frames", how many).

    Raises:
        UserError: there is no frame.
    """
    if not len(images):
        raise UserError("images: 0 held-out frames to rebuild; prepare longer videos or raise --heldout")
    counts_V = np.zeros(model.config.codes)
    ours, flat = [], []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        filled = np.concatenate([batch, np.repeat(batch[-1:], batch_size - len(batch), axis=0)])
        codes_BP = model.encode(params, filled)
        rebuilt = np.asarray(model.decode(params, codes_BP))[: len(batch)]
        counts_V += np.bincount(np.asarray(codes_BP)[: len(batch)].reshape(-1), minlength=len(counts_V))
        ours.append(psnr(batch, rebuilt))
        flat.append(psnr(batch, batch.mean(axis=(1, 2), keepdims=True)))
    ours, flat = float(np.concatenate(ours).mean()), float(np.concatenate(flat).mean())
    usage, perplexity = jax.device_get(usage_and_perplexity(jnp.asarray(counts_V, jnp.float32)))
    yield "psnr", ours
    yield "psnr_mean_colour", flat
    yield "psnr_gain", ours - flat
    yield "code_usage", float(usage)
    yield "code_perplexity", float(perplexity)
    yield "frames", len(images)


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """dB of each image, float64 [B]; values in [0, 255], equal images count as 100 dB."""
    mse = ((images.astype(np.float64) - others) ** 2).mean(axis=(1, 2, 3)) / 255.0**2
    return -10.0 * np.log10(np.maximum(mse, 1e-10))
