"""A small folder as a user might bring it, broken things included, and the data folders made from it."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from lwm.data.preparation import prepare

RESOLUTION, CODES = 8, 16
LINES = [
    {"video": "videos/long.mp4", "caption": "A grey ramp."},
    {"image": "images/red.png", "caption": "Red."},
    {"image": "images/blue.jpg", "caption": "Blue."},
    {"image": "images/green.png", "question": "Which colour?", "answer": "Green.", "split": "train"},
    {"video": "videos/short.mp4", "question": "What moves?", "answer": "Nothing.", "split": "heldout"},
    {"text": "A document on a line.", "id": 7},
    {"prompt": "Two and two?", "reply": "Four.", "fields": "[prompt],reply", "source": "sums"},
]
BROKEN_LINES = {
    '{"text": ': "is not JSON",
    "[1, 2]": "is not a JSON object",
    '{"text": "  "}': "text is empty",
    '{"caption": "of nothing"}': "has none of",
    '{"question": "Why?"}': "has no text for 'answer'",
    '{"video": "gone.mp4"}': "gone.mp4 does not exist",
    '{"image": "images/red.png", "fields": "[vision"}': "is not of the form",
    '{"image": "images/red.png", "fields": "[caption+vision]", "caption": "x"}': "nothing to learn",
    '{"text": "x", "fields": "[vision],text"}': "neither video nor image",
    '{"text": "x", "source": "My Source"}': "source 'My Source'",
    '{"text": "x", "split": "test"}': "split 'test'",
    '{"video": "videos/long.mp4", "split": "heldout"}': "is not that of lines.jsonl:1",
    '{"text": 5}': "text 5 is not text",
    '{"video": "../a.mp4"}': "../a.mp4 lies outside of the folder",
    '{"image": "/a.png"}': "/a.png lies outside of the folder",
    '{"image": "lines.jsonl"}': "neither a video nor an image",
}


def _write_video(path, frames, *, rate=8, times=None, aspect=None, codec="mpeg4"):
    """Encodes uint8 RGB frames; `times` (in 1/1000 s) makes the frame rate variable."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for at, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = times[at] if times else at * 1000 // rate
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _grey(level, height=32, width=48):
    return np.full((height, width, 3), level, np.uint8)


def _fill(folder, *, broken=False):
    """Lays out videos, images, text and JSON lines in `folder`."""
    for name in ("videos", "images", "texts"):
        (folder / name).mkdir(parents=True)
    _write_video(folder / "videos" / "long.mp4", [_grey(5 * at) for at in range(48)])
    _write_video(folder / "videos" / "short.mp4", [_grey(200)] * 6)
    _write_video(folder / "videos" / "silent.avi", [_grey(4 * at) for at in range(30)])
    for name, colour in {
        "red.png": "red",
        "blue.jpg": "blue",
        "green.png": "green",
        "plain.webp": "gray",
    }.items():
        Image.new("RGB", (20, 12), colour).save(folder / "images" / name)
    for at in range(10):
        text = f"# Document {at}\n\n" + "".join(f"Line {line} of  {at}.\n" for line in range(20 * (at + 1)))
        (folder / "texts" / f"{at}.{'md' if at % 2 else 'txt'}").write_text(text)
    lines = [json.dumps(line) for line in LINES]
    if broken:
        lines += BROKEN_LINES
        (folder / "videos" / "broken.mp4").write_bytes(b"this is no video" * 100)
        (folder / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        (folder / "texts" / "empty.md").write_text(" \n")
        (folder / "texts" / "latin.txt").write_bytes("café".encode("latin-1"))
        (folder / "notes.pdf").write_bytes(b"not looked at")
        (folder / ".hidden.txt").write_text("not looked at")
    (folder / "lines.jsonl").write_text("\n".join(lines) + "\n\n")


def load_fake_encoder(vqgan):
    """Four codes a frame: the brightness of each quarter, in 16 steps."""

    def encode(frames):
        quarters = frames.reshape(len(frames), 2, 4, 2, 4, 3).mean((2, 4, 5))
        return (quarters // 16).astype(np.int64).reshape(len(frames), 4)

    return encode, CODES


def _options(folder, output, **changes):
    """Arguments of `prepare` for a folder of `_fill`."""
    common = {"tokenizer": "bytes", "resolution": RESOLUTION, "fps": 0, "load_encoder": load_fake_encoder}
    return {"input": str(folder), "output": str(output), **common, **changes}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("input")
    _fill(path)
    return path


@pytest.fixture(scope="session")
def broken_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("broken_input")
    _fill(path, broken=True)
    return path


@pytest.fixture(scope="session")
def data_dir(folder, tmp_path_factory):
    """Everything in `folder`, prepared with bytes and the fake encoder."""
    path = tmp_path_factory.mktemp("data") / "prepared"
    prepare(**_options(folder, path, vqgan="fake"))
    return path


@pytest.fixture(scope="session")
def options():
    """`options(folder, output, **changes)`: arguments of `prepare`, with bytes and the fake encoder."""
    return _options


@pytest.fixture(scope="session")
def fill():
    """`fill(folder, broken=False)` lays out a user's folder."""
    return _fill


@pytest.fixture(scope="session")
def write_video():
    """`write_video(path, frames, rate=8, times=None, aspect=None)` encodes RGB frames."""
    return _write_video


@pytest.fixture(scope="session")
def grey():
    """`grey(level, height=32, width=48)`: a frame."""
    return _grey


@pytest.fixture(scope="session")
def lines():
    """The lines of lines.jsonl."""
    return LINES


@pytest.fixture(scope="session")
def broken_lines():
    """Lines after those, and why they are broken."""
    return BROKEN_LINES
