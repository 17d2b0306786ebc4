"""The report on rebuilt frames, with a made-up tokenizer whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest

from lwm.errors import UserError
from lwm.evaluation.reconstruction import evaluate, psnr


class Flat:
    """One code per frame: its red level, in steps of 16; decodes to a grey picture of that level."""

    config = SimpleNamespace(codes=16)

    def encode(self, params, images):
        assert images.shape == (4, 8, 8, 3)
        return images[:, :1, 0, 0].astype(np.int32) // 16

    def decode(self, params, codes_BP):
        return np.broadcast_to(codes_BP[:, :, None, None] * np.uint8(16), (4, 8, 8, 3)).astype(np.uint8)


def frames(*levels: int) -> np.ndarray:
    return np.stack([np.full((8, 8, 3), level, np.uint8) for level in levels])


def test_known_frames_have_known_figures():
    images = frames(16, 16, 32, 16, 16, 70)
    images[5, :4] += 6  # halves of 76 and 70 have the mean 73; the code says 64
    values = dict(evaluate(Flat(), {}, images, batch_size=4))
    last = -10 * np.log10((12**2 + 6**2) / 2 / 255**2)
    flat = -10 * np.log10(3**2 / 255**2)
    assert values["frames"] == 6
    np.testing.assert_allclose(values["psnr"], (5 * 100 + last) / 6)
    np.testing.assert_allclose(values["psnr_mean_colour"], (5 * 100 + flat) / 6)
    np.testing.assert_allclose(values["psnr_gain"], (last - flat) / 6)
    assert values["code_usage"] == 3 / 16
    entropy = -(4 / 6 * np.log(4 / 6) + 2 / 6 * np.log(1 / 6))
    np.testing.assert_allclose(values["code_perplexity"], np.exp(entropy), rtol=1e-5)


def test_the_figures_do_not_depend_on_the_batches():
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    whole = dict(evaluate(Flat(), {}, images, batch_size=4))
    part = dict(evaluate(Flat(), {}, images[:5], batch_size=4))
    again = dict(evaluate(Flat(), {}, images[:5].copy(), batch_size=4))
    assert part == again and part["frames"] == 5 and whole["psnr"] != part["psnr"]


def test_psnr_of_equal_and_opposite_images():
    np.testing.assert_allclose(psnr(frames(0, 7), frames(255, 7)), [0.0, 100.0], atol=1e-9)


def test_no_frame_is_a_user_error():
    with pytest.raises(UserError, match="images: 0 held-out frames"):
        dict(evaluate(Flat(), {}, np.zeros((0, 8, 8, 3), np.uint8), batch_size=4))
