"""Compression: bytes and tokens counted by hand, compressors that give back what went in, and loss in dB."""

import gzip
import io
import math

import av
import numpy as np
import pytest
from PIL import Image

from lwm.data.tokenizers import ByteTokenizer
from lwm.errors import UserError
from lwm.scaling.compression import bits_per_byte, decibels, flac, measure, png

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)
SOUND = (8000 * np.sin(np.arange(4000) / 20)).astype(np.int16)


def test_text_counts_bytes_of_utf8():
    texts, bytes_ = ["naïve ", "日本"], ByteTokenizer()
    found = measure("bytes", texts, bytes_.encode, bytes_.decode)
    assert (found.modality, found.raw_bytes, found.tokens) == ("text", 7 + 6, 13)
    assert found.bytes_per_token == 1 and found.psnr == math.inf
    words = measure("characters", texts, list)
    assert words.bytes_per_token == 13 / 8 and words.psnr is None


def test_compressors_see_all_texts_as_one_stream():
    texts = ["the same line\n"] * 50
    found = bits_per_byte(texts)
    assert set(found) == {"gzip", "xz"}
    assert found["gzip"] == 8 * len(gzip.compress("".join(texts).encode(), 9, mtime=0)) / 700
    assert found["gzip"] < 0.8


def test_noise_cannot_be_compressed_and_flat_pictures_can():
    noise = RNG.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    flat = np.full((64, 64, 3), 7, np.uint8)
    for name, bits in bits_per_byte([noise]).items():
        assert bits > 7.9, name
    assert max(bits_per_byte([flat] * 3).values()) < 0.3
    assert set(bits_per_byte([flat])) == {"gzip", "xz", "png"}


def test_png_and_flac_lose_nothing():
    assert (np.asarray(Image.open(io.BytesIO(png(PICTURE)))) == PICTURE).all()
    with av.open(io.BytesIO(flac(SOUND))) as container:
        again = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert (again == SOUND).all()
    assert len(flac(SOUND)) < SOUND.nbytes / 2


def test_patches_of_pictures_and_what_is_lost_of_them():
    """One code for each 4 x 4 patch, which decodes to its first pixel plus nothing."""

    def encode(picture):
        return [tuple(pixel) for pixel in picture[::4, ::4].reshape(-1, 3)]

    def decode(codes):
        return np.array(codes, np.uint8).reshape(2, 3, 3).repeat(4, 0).repeat(4, 1)

    found = measure("patches", [PICTURE, PICTURE], encode, decode)
    assert found.modality == "image" and found.bytes_per_token == 4 * 4 * 3
    error = np.square(PICTURE.astype(float) - decode(encode(PICTURE))).mean()
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / error))


def test_sound_has_two_bytes_a_sample_and_flac():
    found = measure("samples", [SOUND], list)
    assert (found.modality, found.raw_bytes, found.bytes_per_token) == ("audio", 8000, 2)
    assert set(found.bits_per_byte) == {"gzip", "xz", "flac"}
    law = (SOUND >> 8).astype(np.uint8)
    assert set(measure("law", [law], list).bits_per_byte) == {"gzip", "xz"}


def test_bits_of_a_model_are_of_raw_bytes():
    found = measure("pairs", ["abcd"], lambda text: [text[:2], text[2:]])
    assert found.model_bits_per_byte(2 * math.log(256)) == pytest.approx(4)
    assert decibels(1.0, 255.0) == pytest.approx(48.1308, abs=1e-4)


def test_bad_items_are_one_line():
    with pytest.raises(UserError, match="x: no items; measure items of one modality"):
        measure("x", [], list)
    with pytest.raises(UserError, match="x: image and text;"):
        measure("x", ["a", PICTURE], list)
    with pytest.raises(UserError, match=r"item: float64 \[8, 12, 3\]; give text, uint8"):
        measure("x", [PICTURE / 255], list)
    with pytest.raises(UserError, match="item: bytes;"):
        measure("x", [b"a"], list)
    with pytest.raises(UserError, match="x: no tokens of 1 items"):
        measure("x", [""], list)
    with pytest.raises(UserError, match="decode: float64"):
        measure("x", [PICTURE], lambda item: item.ravel(), lambda _: PICTURE / 1.0)
    with pytest.raises(UserError, match="a text comes back changed"):
        measure("x", ["Ab"], lambda text: list(text.lower()), "".join)
