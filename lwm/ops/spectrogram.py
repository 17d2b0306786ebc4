"""From a waveform to a log magnitude spectrogram: frames, a Hann window, a Fourier transform."""

import jax
import jax.numpy as jnp
import numpy as np

FLOOR = 1e-3  # added to magnitudes: the noise below which nothing is told apart


def log_spectrogram(waveform_BA: jax.Array, *, window: int, hop: int) -> jax.Array:
    """Log magnitudes of the frequencies of overlapping frames.

    Args:
      waveform_BA: samples in [-1, 1], of any float dtype.
      window: samples of a frame, a multiple of hop.
      hop: samples from frame to frame; A is a multiple of it.

    Returns:
      float32 [B, A / hop, window / 2 + 1]: frame i begins at sample i · hop; after the end there is silence.

    Raises:
      ValueError: window or A is no multiple of hop.
    """
    B, A = waveform_BA.shape
    if window % hop or A % hop:
        raise ValueError(f"window, A: {window}, {A}; multiples of hop = {hop}")
    overlap, count = window // hop, A // hop
    padded = jnp.pad(waveform_BA.astype(jnp.float32), ((0, 0), (0, window - hop)))
    hops = padded.reshape(B, count + overlap - 1, hop)
    frames = jnp.concatenate([hops[:, i : i + count] for i in range(overlap)], axis=-1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return jnp.log(jnp.abs(jnp.fft.rfft(frames * jnp.float32(hann))) + FLOOR)
