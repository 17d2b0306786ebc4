import numpy as np
import pytest
from PIL import Image

from lwm.errors import UserError
from lwm.serving import sampling
from lwm.serving.attachments import frames_within, placed, read_frames, read_text
from lwm.serving.codec import open_codec


@pytest.fixture
def seen(runs, one_device):
    return open_codec(sampling.load(runs / "lwm"), "", "image: 'x'")


def test_a_text_file_is_read_whole(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffOù?\n".encode())
    assert read_text("file", str(tmp_path / "a.txt")) == "Où?\n"


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("gone.txt", None, "cannot be read .No such file"),
        ("latin.txt", "café".encode("latin-1"), "is no text in UTF-8"),
        ("empty.txt", b" \n", "has no text in it"),
    ],
)
def test_a_text_file_that_is_none_is_named(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"file: .*{name} {reason}"):
        read_text("file", str(tmp_path / name))


def test_an_image_and_frames_come_at_the_size_of_the_vqgan(seen, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 60, 3), np.uint8)
    frames = [Image.fromarray(frame) for frame in pixels]
    frames[0].save(tmp_path / "a.png")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    assert read_frames(seen.resolution, image=str(tmp_path / "a.png"), frames=1).shape == (1, 16, 16, 3)
    assert read_frames(seen.resolution, video=str(tmp_path / "a.gif"), frames=3).shape == (3, 16, 16, 3)


@pytest.mark.parametrize(
    "given, content, reason",
    [
        ({"image": "a.png"}, b"\x89PNG\r\n\x1a\n and no more", "cannot be decoded"),
        ({"video": "a.mp4"}, b"no video" * 99, "cannot be decoded"),
        ({"video": "a.mp4"}, b"", "cannot be decoded"),
        ({"video": "gone.mp4"}, None, "is not a file"),
        ({"image": "gone.png"}, None, "is not a file"),
    ],
)
def test_a_broken_picture_is_named(seen, tmp_path, monkeypatch, given, content, reason):
    monkeypatch.chdir(tmp_path)
    ((field, name),) = given.items()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{field}: {name} {reason}.*; give another file"):
        read_frames(seen.resolution, frames=4, **given)


def test_frames_fill_the_context_beside_the_text(seen):
    assert frames_within(seen, 512, asked=0, reserve=100) == 82
    assert frames_within(seen, 512, asked=7, reserve=100) == 7
    with pytest.raises(UserError, match="frames: 83 of 5 tokens do not fit beside 100 .* ask for 82"):
        frames_within(seen, 512, asked=83, reserve=100)
    with pytest.raises(UserError, match="frames: 1 of 5 tokens do not fit"):
        frames_within(seen, 512, asked=0, reserve=510)


def test_a_picture_stands_where_the_prompt_says():
    assert placed("What is <vision> here?", [7, 8]) == ["What is ", 7, 8, " here?"]
    assert placed("What?", [7, 8]) == [7, 8, "What?"]
    with pytest.raises(UserError, match="prompt: <vision> stands 2 times"):
        placed("<vision> or <vision>", [7])
