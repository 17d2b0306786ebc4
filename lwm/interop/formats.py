"""Which format a file or a folder has, by what is in it; names and endings say nothing."""

import zipfile

from etils import epath

from lwm import json_text
from lwm.errors import UserError

KNOWN = "a Hugging Face folder with safetensors, a GGUF file, a checkpoint that LWM released, or its VQGAN"


def recognise(source: epath.PathLike) -> str:
    """ "huggingface", "gguf", "lwm" (streamed msgpack) or "vqgan" (a pickle, which must hold arrays alone).

    Raises:
      UserError: there is nothing at `source`, or nothing that is known.
    """
    path = epath.Path(source)
    if not path.exists():
        raise UserError(f"source: {source} does not exist; give {KNOWN}")
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"GGUF"):
        return "gguf"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**28:
        raise UserError(f"source: {source} is one file of safetensors; give the folder with its config.json")
    if start.startswith(b"PK\x03\x04"):
        with path.open("rb") as file:
            raise UserError(f"source: {source} is {_archive(file)}; give {KNOWN}")
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "vqgan"
    # An array of two, the first an array of texts: the key of a tensor.
    if start[:1] == b"\x92" and len(start) > 2 and 0x91 <= start[1] <= 0x9F and 0xA0 <= start[2] <= 0xDB:
        return "lwm"
    raise UserError(f"source: {source} has no known format; give {KNOWN}")


def _folder(path: epath.Path) -> str:
    names = sorted(child.name for child in path.iterdir())
    if "config.json" not in names:
        raise UserError(f"source: {path} has no config.json; give {KNOWN}")
    try:
        config = json_text.read(path / "config.json")
    except ValueError as error:
        raise UserError(f"source: {path}/config.json is no JSON ({error}); fetch it again") from error
    if isinstance(config, dict) and {"experiment", "model", "stages"} <= config.keys():
        raise UserError(f"source: {path} is a workdir already; use it as it is, or --export=huggingface it")
    if any(name.endswith(".safetensors") for name in names):
        return "huggingface"
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    if pickles:
        raise UserError(
            f"source: {path} holds its weights in {pickles[0]}, a pickle, which could run any program; "
            "give a folder with .safetensors"
        )
    raise UserError(f"source: {path} has a config.json but no .safetensors; give {KNOWN}")


def _archive(file) -> str:
    try:
        names = zipfile.ZipFile(file).namelist()
    except zipfile.BadZipFile:
        return "a zip archive that is cut short"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file, which is a pickle and could run any program"
    return "a zip archive"
