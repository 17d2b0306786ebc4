"""Waveforms of WAV files, mono, at the rate that is asked for."""

import os
import wave
from pathlib import Path

import numpy as np

from lwm import bounds
from lwm.data.video import BrokenMedia

_FULL = 2**15  # int16 holds [-1, 1) in steps of 1 / _FULL


def read_wav(path: Path | str, *, rate: int) -> np.ndarray:
    """Returns a WAV file as int16 [n], the mean of its channels, at `rate` samples a second.

    Raises BrokenMedia if the file is no PCM of 8 or 16 bits, is cut off, has no samples or more of them than
    `bounds.SAMPLES`.
    """
    try:
        with wave.open(str(path)) as file:
            channels, width, given, announced = file.getparams()[:4]
            most = min(announced, os.path.getsize(path), bounds.SAMPLES // channels)
            content = file.readframes(most)
    except (OSError, EOFError, RuntimeError, wave.Error) as error:
        raise BrokenMedia(f"is no WAV that can be read ({error or 'it ends too early'})") from None
    if given < 1:
        raise BrokenMedia(f"has {given} samples a second; it is damaged")
    if max(announced * channels, announced * rate // given) > bounds.SAMPLES:
        raise BrokenMedia(
            f"has {announced} samples in {channels} channels, {given} a second; "
            f"{bounds.SAMPLES} at most can be read: cut it"
        )
    if width not in (1, 2):
        raise BrokenMedia(f"has samples of {8 * width} bits; 8 and 16 can be read")
    if len(content) != announced * channels * width:
        raise BrokenMedia(
            f"is cut off: {len(content) // (channels * width)} of its {announced} samples are there"
        )
    if not content:
        raise BrokenMedia("has no samples")
    if width == 1:  # unsigned
        samples = (np.frombuffer(content, np.uint8).astype(np.float64) - 128) / 128
    else:
        samples = np.frombuffer(content, "<i2").astype(np.float64) / _FULL
    mono = resample(samples.reshape(-1, channels).mean(axis=1), given, rate)
    return np.clip(np.round(mono * _FULL), -_FULL, _FULL - 1).astype(np.int16)


def resample(samples: np.ndarray, given: int, wanted: int) -> np.ndarray:
    """Returns float [n] of `given` samples a second as [round(n · wanted / given)], at least one.

    All that both rates can carry is kept, all else left out, by cutting or padding the spectrum of the whole.
    """
    count = max(round(len(samples) * wanted / given), 1)
    if given == wanted or count == len(samples):
        return samples
    spectrum, fewer = np.fft.rfft(samples)[: count // 2 + 1], min(count, len(samples))
    if fewer % 2 == 0:  # the highest frequency of the shorter is two of the longer, of plus and minus
        spectrum[fewer // 2] *= 2 if count == fewer else 0.5
    return np.fft.irfft(spectrum, count) * (count / len(samples))
