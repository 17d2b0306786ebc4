"""What a file is decides its content, whatever its name."""

import io
import json
import pickle
import zipfile

import pytest

from lwm.errors import UserError
from lwm.interop.formats import recognise


def _zip(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (b"GGUF\x03\x00\x00\x00", "gguf"),
        (b"\x92\x93\xabtransformer\xa3wte", "lwm"),
        (b"\x92\x92\xa7lm_head", "lwm"),
        (pickle.dumps({"encoder": {}}), "vqgan"),
        (pickle.dumps({"encoder": {}}, 2), "vqgan"),
    ],
)
def test_files_are_known_by_their_first_bytes(tmp_path, content, format):
    path = tmp_path / "a name.png"
    path.write_bytes(content)
    assert recognise(path) == format


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no known format"),
        (b"GGU", "has no known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "has no known format"),
        (b"\x92", "has no known format"),
        (b"\x92\x01", "has no known format"),
        ((50).to_bytes(8, "little") + b'{"x":', "is one file of safetensors; give the folder"),
        (_zip("archive/data.pkl"), "is a PyTorch file, which is a pickle"),
        (_zip("x.npy"), "is a zip archive; give"),
        (_zip("x.npy")[:40], "is a zip archive that is cut short"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"weights {message}") as failure:
        recognise(path)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no config.json"),
        ({"config.json": "{"}, "config.json is no JSON"),
        ({"config.json": "{}"}, "has a config.json but no .safetensors"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, "in pytorch_model.bin, a pickle"),
        ({"config.json": json.dumps(dict(experiment="x", model={}, stages={}))}, "is a workdir already"),
    ],
)
def test_folders_that_hold_no_model_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        recognise(tmp_path)
    with pytest.raises(UserError, match="nothing does not exist"):
        recognise(tmp_path / "nothing")


def test_a_folder_with_safetensors_is_hugging_faces(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert recognise(tmp_path) == "huggingface"
