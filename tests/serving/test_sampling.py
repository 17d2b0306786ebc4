"""From workdirs on disk to text, pictures and both; the weights are random."""

import io

import av
import jax
import numpy as np
import pytest
from PIL import Image

from lwm.data.manifest import load_manifest
from lwm.errors import UserError
from lwm.generation import templates
from lwm.generation.sampler import Sampling
from lwm.serving import interleaving, painting, sampling
from lwm.serving.codec import open_codec

GREEDY = {"sampling": Sampling(temperature=0.0), "seed": 0}
GUIDED = {"sampling": Sampling(temperature=9.0, guidance=3.0), "seed": 1}


@pytest.fixture
def run(runs, one_device):
    return sampling.load(runs / "lwm")


def test_text_goes_on_from_the_prompt_within_the_context(run):
    short = sampling.write(run, "To be", new_tokens=5, **GREEDY)
    assert short.startswith("To be") and len(short) > len("To be")
    assert sampling.write(run, "To be", new_tokens=5, **GREEDY) == short
    with pytest.raises(UserError, match=r"prompt: 512 tokens leave 0 of the context's 512"):
        sampling.write(run, "x" * 511, new_tokens=5, **GREEDY)


def test_what_streams_is_what_is_written(run):
    asked = templates.encode(run.tokenizer, templates.plain(run.tokenizer, "To be"))
    pieces = list(sampling.stream(run, asked, new_tokens=70, **GREEDY))
    assert len(pieces) == 4 and sum(tokens for _, tokens in pieces) <= 70
    whole = sampling.write(run, "To be", new_tokens=70, **GREEDY)
    assert "To be" + "".join(text for text, _ in pieces) == whole


def test_prompts_need_not_be_whole_stripes(run):
    assert run.block["stripe"] == 8 and run.model.config.stripe == 0


@pytest.mark.parametrize("tensor", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_ring_of_devices_writes_the_same(runs, monkeypatch, tensor):
    spread = sampling.load(runs / "lwm", tensor=tensor)
    assert spread.mesh.shape["seq"] == 8 // tensor
    many = sampling.write(spread, "To be, or not", new_tokens=40, **GREEDY)
    assert jax.sharding.get_abstract_mesh().empty
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert sampling.write(sampling.load(runs / "lwm"), "To be, or not", new_tokens=40, **GREEDY) == many


def test_a_mesh_that_does_not_fit_is_told(runs):
    with pytest.raises(UserError, match="mesh.*3"):
        sampling.load(runs / "lwm", tensor=3)


def test_an_image_has_its_size(run):
    content = painting.paint(run, "a tie", "image", vqgan="", frames=1, **GUIDED)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG" and image.size == (256, 256)
    assert content == painting.paint(run, "a tie", "image", vqgan="", frames=1, **GUIDED)


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_video_has_the_frames_asked_for(run, suffix):
    content = painting.paint(run, "a tie", "video", vqgan="", frames=3, suffix=suffix, **GUIDED)
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(container.streams.video[0]))
    assert len(frames) == 3 and (frames[0].width, frames[0].height) == (256, 256)


def test_the_first_frame_of_a_video_is_the_image_of_its_prompt(run):
    image = painting.paint(run, "a tie", "image", vqgan="", frames=1, **GUIDED)
    video = painting.paint(run, "a tie", "video", vqgan="", frames=2, **GUIDED)
    still, film = (Image.open(io.BytesIO(content)).convert("RGB") for content in (image, video))
    assert np.abs(np.asarray(still, float) - np.asarray(film, float)).mean() < 6


@pytest.mark.parametrize(
    "workdir, vqgan, frames, message",
    [
        ("text", "vqgan", 1, "kind: 'image'"),
        ("lwm", "lwm", 1, "vqgan: .*lwm holds another model"),
        ("lwm", "nowhere", 1, "vqgan: .*nowhere holds no config.json"),
        ("lwm", "large", 1, "vqgan: .*large has 32 codes, the data 16"),
        ("imported", "large", 1, "vqgan: .*large has 32 codes, the model 18"),
        ("lwm", "vqgan", 200, "prompt: .* for 200 frames of 5"),
    ],
)
def test_what_does_not_fit_together_is_told(runs, one_device, workdir, vqgan, frames, message):
    loaded = sampling.load(runs / workdir)
    with pytest.raises(UserError, match=message):
        painting.paint(loaded, "a tie", "image", vqgan=str(runs / vqgan), frames=frames, **GREEDY)


def test_a_vqgan_cannot_write(runs, one_device):
    with pytest.raises(UserError, match="workdir: .*vqgan holds another model, vqgan"):
        sampling.load(runs / "vqgan")


@pytest.mark.slow
def test_an_imported_model_brings_its_tokenizer_and_is_asked_as_lwm_is(runs, one_device):
    run = sampling.load(runs / "imported")
    assert run.manifest == {} and run.tokenizer.vocab_size == 300
    assert sampling.write(run, "A model", new_tokens=5, **GREEDY).startswith("A model")
    asked = run.tokenizer.decode(painting._wish(run, "a tie", "video"))
    assert asked == "You are a helpful assistant. USER: Generate a video of a tie ASSISTANT:"
    content = painting.paint(run, "a tie", "video", vqgan=str(runs / "vqgan"), frames=2, **GUIDED)
    assert Image.open(io.BytesIO(content)).n_frames == 2


def test_pictures_go_in_as_training_lays_them_out(runs, run):
    seen = open_codec(run, "", "image: 'x'")
    images = np.random.default_rng(0).integers(0, 256, (19, 16, 16, 3), np.uint8)
    prompt = templates.encode(run.tokenizer, seen.look(images))
    manifest = load_manifest(runs / "data")
    start, end = len(manifest["vision_start"]), len(manifest["vision_end"])
    assert prompt.tokens[:start].tolist() == manifest["vision_start"]
    assert prompt.tokens[-end:].tolist() == manifest["vision_end"]
    frames = prompt.tokens[start:-end].reshape(19, 5)
    assert prompt.is_vision[start:-end].all() and prompt.is_vision.sum() == 95
    assert frames[:, -1].tolist() == [16] * 18 + [17]
    assert seen.paint(frames[:, :-1]).shape == (19, 16, 16, 3)


def test_text_and_pictures_in_one_go(run):
    seen = open_codec(run, "", "kind: 'any'")
    asked = templates.encode(run.tokenizer, templates.plain(run.tokenizer, "A tie: <vision>"))
    said = []
    how = {"text": Sampling(), "vision": Sampling(guidance=3.0), "seed": 0, "frames": 2}
    parts = interleaving.interleave(
        run, seen, asked, new_tokens=40, say=lambda text, tokens: said.append((text, tokens)), **how
    )
    before, clip, after = parts
    assert before == "A tie: " and clip.shape == (2, 16, 16, 3)
    told = "".join(text for text, _ in said)
    assert told == "</vision>" + after and sum(tokens for _, tokens in said) <= 40
    files = interleaving.as_markdown(parts, seen, "out/tie.md")
    assert list(files) == ["out/tie_1.gif", "out/tie.md"]
    assert files["out/tie.md"].decode() == "A tie: \n\n![](tie_1.gif)\n\n" + after
    assert Image.open(io.BytesIO(files["out/tie_1.gif"])).n_frames == 2
