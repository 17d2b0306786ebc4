import numpy as np
import pytest

from lwm.ops.spectrogram import FLOOR, log_spectrogram

A, WINDOW, HOP = 96, 32, 8


def slow(waveform_BA):
    """Frame by frame, frequency by frequency, as the transform is defined."""
    out = np.zeros((len(waveform_BA), A // HOP, WINDOW // 2 + 1))
    times = np.arange(WINDOW)
    for b, i, f in np.ndindex(out.shape):
        frame = np.zeros(WINDOW)
        piece = waveform_BA[b, i * HOP : i * HOP + WINDOW]
        frame[: len(piece)] = piece
        frame *= np.sin(np.pi * times / WINDOW) ** 2
        out[b, i, f] = np.log(abs(np.sum(frame * np.exp(-2j * np.pi * f * times / WINDOW))) + FLOOR)
    return out


def test_magnitudes_are_those_of_the_reference():
    waveform = np.random.default_rng(0).uniform(-1, 1, (2, A)).astype(np.float32)
    np.testing.assert_allclose(log_spectrogram(waveform, window=WINDOW, hop=HOP), slow(waveform), atol=1e-4)


def test_a_tone_stands_where_its_frequency_is_and_silence_at_the_floor():
    tone = np.sin(2 * np.pi * 5 / WINDOW * np.arange(A)).astype(np.float32)
    found = np.asarray(log_spectrogram(np.stack([tone, 0 * tone]), window=WINDOW, hop=HOP))
    assert set(found[0, : A // HOP - WINDOW // HOP].argmax(axis=-1)) == {5}
    np.testing.assert_allclose(found[1], np.log(FLOOR), atol=1e-5)


@pytest.mark.parametrize(("length", "window"), [(A, 36), (A + 1, WINDOW)])
def test_frames_that_do_not_fit_are_refused(length, window):
    with pytest.raises(ValueError, match="multiples of hop = 8"):
        log_spectrogram(np.zeros((1, length), np.float32), window=window, hop=HOP)
