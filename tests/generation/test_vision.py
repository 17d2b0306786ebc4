import io

import numpy as np
import pytest
from PIL import Image

from lwm.errors import UserError
from lwm.generation.sampler import Sampling
from lwm.generation.vision import check_output, frame_ends, generate_codes, picture


def test_a_delimiter_ends_each_frame():
    assert frame_ends(3, codes=64, codes_per_frame=2).tolist() == [-1, -1, 64, -1, -1, 64, -1, -1, 65]
    assert frame_ends(1, codes=64, codes_per_frame=2).tolist() == [-1, -1, 65]


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_frames_hold_codes_only(debug_model, guidance):
    model, params = debug_model
    sampling = Sampling(temperature=3.0, guidance=guidance)
    codes_FP = generate_codes(
        model,
        params,
        [1, 80, 90, 40, 41],
        [1, 40, 41],
        frames=3,
        codes=50,
        codes_per_frame=4,
        sampling=sampling,
        seed=0,
        chunk=32,
    )
    assert codes_FP.shape == (3, 4)
    assert codes_FP.min() >= 0 and codes_FP.max() < 50 and len(set(codes_FP.ravel().tolist())) > 3


def test_the_prompt_matters_only_with_guidance_above_0(debug_model):
    model, params = debug_model

    def codes(prompt, guidance):
        return generate_codes(
            model,
            params,
            prompt,
            [1, 40, 41],
            frames=2,
            codes=64,
            codes_per_frame=4,
            sampling=Sampling(temperature=0.0, guidance=guidance),
            seed=0,
            chunk=32,
        ).tolist()

    assert codes([1, 80, 90, 40, 41], 0.0) == codes([1, 99, 40, 41], 0.0) == codes([1, 40, 41], 1.0)
    assert codes([1, 80, 90, 40, 41], 3.0) != codes([1, 40, 41], 1.0)


WRONG_NAMES = [("a.gif", "image"), ("a.png", "video"), ("a.mp4", "video"), ("a", "image")]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)


def test_a_png_holds_the_pixels_of_the_first_frame():
    read = np.asarray(Image.open(io.BytesIO(picture(FRAMES, ".png", scale=2))))
    assert read.shape == (8, 12, 3)
    np.testing.assert_array_equal(read[::2, ::2], FRAMES[0])
    np.testing.assert_array_equal(read[1::2, 1::2], FRAMES[0])


@pytest.mark.parametrize("fps, milliseconds", [(4, 250), (24, 40), (1000, 20), (0, 100)])
def test_a_gif_loops_over_all_frames_at_the_rate(fps, milliseconds):
    with Image.open(io.BytesIO(picture(FRAMES, ".gif", fps=fps))) as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == milliseconds and gif.info["loop"] == 0
        for index in range(3):
            gif.seek(index)
            np.testing.assert_allclose(np.asarray(gif.convert("RGB"), int), FRAMES[index], atol=12)


@pytest.mark.parametrize("name, kind", WRONG_NAMES)
def test_a_file_name_must_suit_its_kind(name, kind):
    with pytest.raises(UserError, match="output: .*--kind"):
        check_output(f"samples/{name}", kind)
