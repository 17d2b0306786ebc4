import numpy as np
import pytest

from lwm.errors import UserError
from lwm.generation.cache import Prompt
from lwm.generation.sampler import Sampling
from lwm.generation.vision import check_output, generate_codes

CAPTIONS = [Prompt.of_text(ids) for ids in ([1, 80, 90, 40, 41], [1, 99, 40, 41])]
NOTHING = Prompt.of_text([1, 40, 41])


def codes_of(debug_model, captions, guidance, *, frames=2, codes=64, temperature=0.0, **changes):
    return generate_codes(
        *debug_model,
        captions,
        [NOTHING] * len(captions),
        frames=frames,
        codes=codes,
        codes_per_frame=4,
        sampling=Sampling(temperature=temperature, guidance=guidance),
        seed=0,
        chunk=32,
        **changes,
    )


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_frames_hold_codes_only(debug_model, guidance):
    codes_BFP = codes_of(debug_model, CAPTIONS, guidance, frames=3, codes=50, temperature=3.0)
    assert codes_BFP.shape == (2, 3, 4)
    assert codes_BFP.min() >= 0 and codes_BFP.max() < 50 and len(set(codes_BFP.ravel().tolist())) > 3


@pytest.mark.slow
def test_the_prompt_matters_only_with_guidance_above_0(debug_model):
    without = [codes_of(debug_model, [one], 0.0).tolist() for one in CAPTIONS]
    assert without[0] == without[1] == codes_of(debug_model, [NOTHING], 1.0).tolist()
    assert codes_of(debug_model, CAPTIONS[:1], 3.0).tolist() != without[0]


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 1.0])
def test_a_caption_among_others_and_in_bursts_is_painted_as_alone(debug_model, temperature):
    heard = []
    together = codes_of(
        debug_model, CAPTIONS[::-1], 3.0, temperature=temperature, steps=7, watch=heard.append
    )
    alone = codes_of(debug_model, CAPTIONS[1:], 3.0, temperature=temperature)
    assert together[0].tolist() == alone[0].tolist() != together[1].tolist()
    assert [part.tokens_BT.shape for part in heard] == [(2, 7), (2, 7)]


def test_frames_go_on_behind_frames(debug_model):
    whole = codes_of(debug_model, CAPTIONS[:1], 1.0, frames=3)[0]
    first = np.r_[whole[0], 64].astype(np.int32)
    begun = Prompt(np.r_[CAPTIONS[0].tokens, first], np.r_[CAPTIONS[0].is_vision, np.ones(5, bool)])
    assert codes_of(debug_model, [begun], 1.0, frames=2)[0].tolist() == whole[1:].tolist()


WRONG_NAMES = [("a.gif", "image"), ("a.png", "video"), ("a.mp4", "image"), ("a", "image")]


@pytest.mark.parametrize("name, kind", WRONG_NAMES)
def test_a_file_name_must_suit_its_kind(name, kind):
    with pytest.raises(UserError, match="output: .*--kind"):
        check_output(f"samples/{name}", kind)


def test_a_video_may_be_a_gif_or_an_mp4():
    for name, kind in (("a.PNG", "image"), ("a.gif", "video"), ("a.mp4", "video")):
        check_output(name, kind)
