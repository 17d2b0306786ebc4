import numpy as np
import pytest

from lwm.data.video import BrokenMedia
from lwm.data.waveforms import read_wav, resample


def test_what_both_rates_can_carry_is_kept(write_wav, tmp_path):
    seconds = np.arange(800) / 800
    low = np.sin(2 * np.pi * 20 * seconds)
    write_wav(tmp_path / "both.wav", 12000 * (low + np.sin(2 * np.pi * 300 * seconds)), rate=800)
    found = read_wav(tmp_path / "both.wav", rate=200)
    assert found.dtype == np.int16
    np.testing.assert_allclose(found, 12000 * low[::4], atol=3)


def test_resampling_there_and_back_is_nothing():
    samples = np.random.default_rng(0).normal(size=150)
    assert len(resample(samples, 100, 300)) == 450
    np.testing.assert_allclose(resample(resample(samples, 100, 301), 301, 100), samples, atol=1e-9)
    np.testing.assert_allclose(resample(samples, 100, 200)[::2], samples, atol=1e-9)


def test_channels_are_averaged_and_bytes_are_unsigned(write_wav, tmp_path):
    write_wav(tmp_path / "two.wav", [[100, 300], [-50, 50]], channels=2)
    assert read_wav(tmp_path / "two.wav", rate=100).tolist() == [200, 0]
    write_wav(tmp_path / "bytes.wav", [128, 0, 255], width=1)
    assert read_wav(tmp_path / "bytes.wav", rate=100).tolist() == [0, -32768, 127 * 256]


def test_loud_samples_are_clipped_not_wrapped(write_wav, tmp_path):
    square = np.where(np.arange(400) // 50 % 2, 32767, -32768)  # overshoots when its overtones are cut
    write_wav(tmp_path / "square.wav", square, rate=400)
    found = read_wav(tmp_path / "square.wav", rate=100).astype(int)
    assert found.max() == 32767 and found.min() == -32768
    assert (np.sign(found[6:11]) == np.sign(found[8])).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: b"nothing of the sort", "is no WAV that can be read"),
        (lambda whole: whole[:20], "is no WAV that can be read"),
        (lambda whole: whole[:-30], "is cut off: 35 of its 50 samples are there"),
        (lambda whole: whole[:40] + bytes(4), "has no samples"),
    ],
)
def test_what_cannot_be_read_says_why(write_wav, tmp_path, content, message):
    path = tmp_path / "some.wav"
    write_wav(path, np.arange(50))
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(BrokenMedia, match=message):
        read_wav(path, rate=100)


def test_samples_of_other_widths_are_refused(write_wav, tmp_path):
    write_wav(tmp_path / "wide.wav", np.zeros(12), width=3)
    with pytest.raises(BrokenMedia, match="has samples of 24 bits"):
        read_wav(tmp_path / "wide.wav", rate=100)
