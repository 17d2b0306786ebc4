"""From workdirs and a data folder to numbers and samples; the checkpoints are random weights."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from lwm import systems
from lwm.assessment import held_out
from lwm.data.preparation import prepare
from lwm.errors import UserError
from lwm.serving import sampling

CODES, SIDE, P, T = 16, 16, 4, 512
MODEL = {"name": "lwm", "size": "debug", "vision_vocab_size": CODES + 2}
STAGE = {"name": "only", "context_length": T, "mixture": {"text": 1.0, "video": 1.0}, "rope_theta": 1e4}
STAGE |= {"text_weight": 0.5, "vision_weight": 0.5}
VQGAN = {"name": "vqgan", "size": "tiny", "resolution": SIDE, "codes": CODES, "channels": 8, "patch": 8}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three plays and three still pictures that pass for video, one of each held out."""
    folder, random, lines = tmp_path_factory.mktemp("input"), np.random.default_rng(0), []
    for index, split in enumerate(("train", "train", "heldout")):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        line = {"image": f"{index}.png", "caption": f"picture {index}", "source": "video", "split": split}
        lines += [line, {"text": f"Act {index}. " + "To be, or not to be. " * 40, "split": split}]
    lines += [{"question": "Who?", "answer": "I.", "source": "text", "split": "heldout"}]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path_factory.mktemp("data") / "prepared"
    prepare(
        input=str(folder),
        output=output,
        tokenizer="bytes",
        resolution=SIDE,
        vqgan="a table",
        load_encoder=lambda workdir: (lambda frames: frames[:, ::8, ::8, 0].reshape(-1, P) % CODES, CODES),
    )
    return str(output)


@pytest.fixture(scope="module")
def checkpoints():
    """Block, model and parameters by name; "text" (no vision tables) and "large" (more codes) have none."""
    blocks = {"lwm": MODEL, "text": MODEL | {"vision_vocab_size": 0}, "vqgan": VQGAN}
    blocks |= {"large": VQGAN | {"codes": 2 * CODES}}
    batch = {name: np.zeros((1, 8), np.int32) for name in ("tokens", "positions", "segments", "is_vision")}
    models = {name: systems.build_model(block, STAGE) for name, block in blocks.items()}
    params = {name: jax.jit(models[name].init)(jax.random.key(0), batch) for name in ("lwm", "vqgan")}
    return {name: (blocks[name], models[name], params.get(name)) for name in models}


@pytest.fixture
def workdirs(data, checkpoints, monkeypatch, tmp_path):
    """Makes each of the checkpoints the workdir of its name."""

    def load(workdir, stage=None, mesh=None, rules=None):
        block, _, params = checkpoints[str(workdir).rpartition("/")[2]]
        return {"model": block, "data": {"path": data}}, STAGE, params

    def build(block, stage, stripe=0):
        return next(model for known, model, _ in checkpoints.values() if known == block)

    for name in checkpoints:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for module in (held_out, sampling):
        monkeypatch.setattr(module, "load_params", load)
        monkeypatch.setattr(module, "build_model", build)


def evaluated(workdir, **changes):
    asked = {"max_tokens": 0, "lengths": (450,), "depths": (0, 100), "samples": 1, "data": "", "stage": None}
    track = {"track": lambda items, title: items}
    return held_out.evaluate_transformer(workdir, **asked | changes, **track)


def test_a_transformer_is_measured_on_what_was_held_out(workdirs):
    stage, values, cells = evaluated("lwm")
    assert stage == "only"
    # The play alone: the answer of a chat has a prompt before it.
    assert values["text_bytes"] == len("Act 2. " + "To be, or not to be. " * 40)
    assert values["vision_tokens"] == P
    # Random weights know nothing: near the uniform distributions over 259 bytes and 18 vision ids.
    assert values["text_bits_per_byte"] == pytest.approx(np.log2(259), abs=0.3)
    assert values["vision_nats_per_token"] == pytest.approx(np.log(CODES + 2), abs=0.3)
    assert [(cell.length, cell.depth) for cell in cells] == [(450, 0), (450, 100)]


def test_a_mixture_without_held_out_documents_is_an_error(workdirs, monkeypatch):
    monkeypatch.setitem(STAGE, "mixture", {})
    with pytest.raises(UserError, match="data: .*heldout"):
        evaluated("lwm")


def test_rows_that_a_ring_cannot_cut_are_an_error(workdirs, monkeypatch):
    monkeypatch.setattr(sampling, "make_mesh", lambda **axes: None)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match="lengths: 450 cannot be cut"):
        evaluated("lwm")
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(UserError, match="context_length: 512 cannot be cut"):
        evaluated("lwm")


def test_a_vqgan_is_measured_and_shows_what_it_rebuilt(workdirs, tmp_path):
    stage, values = held_out.evaluate_vqgan(tmp_path / "vqgan", data="", stage=None, shown=3)
    assert stage == "only" and values["frames"] == 1
    with Image.open(tmp_path / "vqgan" / "samples" / "rebuilt.png") as image:
        assert image.size == (3 * 128, 2 * 128)
