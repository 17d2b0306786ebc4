"""Folders of Hugging Face with a Llama inside: config.json, safetensors in one file or several, a tokenizer.

Read: any number of key/value heads and any head size, a tied head, Llama 3's scaling of rotations, weights in
bfloat16, float16 or float32. Biases and other kinds of scaling are refused by name.
"""

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from lwm import json_text
from lwm.errors import UserError
from lwm.interop import huggingface_config, safetensors_file
from lwm.interop.assembly import match, read_params
from lwm.interop.imported import Imported
from lwm.interop.names import BACK, HUGGINGFACE, Name, same
from lwm.interop.stored import FileTensor
from lwm.models.sizes import TransformerConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
SHARD_BYTES = 4 * 2**30  # of the files that are written
_INDEX = "model.safetensors.index.json"
_BUFFERS = (".rotary_emb.inv_freq", ".attention.masked_bias")  # old files keep them beside their parameters


def read(source: epath.PathLike, *, mesh: Mesh | None = None, dtype: Any = None) -> Imported:
    """Reads a whole folder.

    Args:
      mesh: to spread the parameters on, None = one device.
      dtype: to keep them in, None = the type of the files.

    Raises:
      UserError: a file is missing, cut short or damaged, or the model is no Llama; what is wrong is named.
    """
    folder = epath.Path(source)
    description = _json(folder / "config.json")
    config = huggingface_config.parse(description, folder)
    found = {name: x for name, x in _index(folder).items() if not name.endswith(_BUFFERS)}
    if config.tied:
        found.pop("lm_head.weight", None)  # the same table once more
    parts = match(HUGGINGFACE, found, config, str(folder))
    return Imported(
        "lwm",
        config,
        read_params(parts, config, mesh, dtype),
        huggingface_config.context_length(description, folder),
        {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).exists()},
    )


def write(
    folder: epath.Path,
    config: TransformerConfig,
    params: dict,
    *,
    context_length: int,
    begin: int | None = None,
    end: int | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json and the weights, a tensor at a time, in the type that the parameters have.

    Args:
      folder: exists and is empty but for a tokenizer.
      begin, end: ids that begin and end a document, if they are known.
      shard_bytes: no file of weights is larger, unless it holds a single tensor.

    Raises:
      UserError: the model has vision tables, for which a Llama has no place.
    """
    if config.vision_vocab_size:
        raise UserError(
            "export: the model has vision tables, and Hugging Face's Llama has no place for them; "
            "export the language model that it was made from"
        )
    tensors = list(_tensors(config, params))
    files = _shards(tensors, shard_bytes)
    names = [_file_name(number, len(files)) for number in range(1, len(files) + 1)]
    for name, own in zip(names, files, strict=True):
        layout = {tensor.name: (tensor.shape, tensor.dtype) for tensor in own}
        safetensors_file.write(folder / name, layout, (tensor.make() for tensor in own))
    if len(files) > 1:
        where = {tensor.name: name for name, own in zip(names, files, strict=True) for tensor in own}
        total = sum(tensor.nbytes for tensor in tensors)
        _write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    description = huggingface_config.describe(config, context_length) | {"torch_dtype": str(tensors[0].dtype)}
    ids = {"bos_token_id": begin, "eos_token_id": end}
    _write_json(folder / "config.json", description | ids)


class _Tensor(NamedTuple):
    """One tensor to be written; `make` brings it to the host and turns it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _tensors(config: TransformerConfig, params: dict) -> Iterator[_Tensor]:
    """All tensors in the order of the table, layer by layer inside a row of it."""
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    for name in HUGGINGFACE:
        if name.ours not in flat:
            continue  # the head of a tied model
        leaf, stacked = flat[name.ours], "{}" in name.theirs
        for layer in range(config.layers if stacked else 1):
            shape = leaf.shape[1:] if stacked else leaf.shape
            yield _Tensor(
                name.theirs.format(layer),
                shape if name.turn is same else shape[::-1],
                np.dtype(leaf.dtype),
                functools.partial(_make, name, leaf, layer if stacked else None, config.head_dim),
            )


def _make(name: Name, leaf: jax.Array, layer: int | None, head_dim: int) -> np.ndarray:
    return BACK[name.turn](np.asarray(leaf if layer is None else leaf[layer]), head_dim)


def _shards(tensors: Sequence[_Tensor], limit: int) -> list[list[_Tensor]]:
    """The tensors of each file, in order."""
    files, room = [[]], limit
    for tensor in tensors:
        if files[-1] and tensor.nbytes > room:
            files.append([])
            room = limit
        files[-1].append(tensor)
        room -= tensor.nbytes
    return files


def _file_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"


def _index(folder: epath.Path) -> dict[str, FileTensor]:
    """All tensors of the folder: of the files that its index names, else of the single file."""
    if not (folder / _INDEX).exists():
        files = sorted(folder.glob("*.safetensors"))
        one = files[0] if len(files) == 1 else folder / "model.safetensors"
        if not one.exists():
            raise UserError(f"source: {folder} has several .safetensors but no {_INDEX}; fetch that too")
        return safetensors_file.index(one)
    where = _json(folder / _INDEX).get("weight_map")
    if not isinstance(where, dict) or not all(map(_is_file_name, where.values())):
        raise UserError(f"source: {folder}/{_INDEX} names no files beside it in weight_map; fetch it again")
    found = {}
    for name in sorted(set(where.values())):
        if not (folder / name).exists():
            raise UserError(f"source: {folder} lacks {name}, which {_INDEX} names; fetch it too")
        found |= safetensors_file.index(folder / name)
    return found


def _json(path: epath.Path) -> dict:
    if not path.exists():
        raise UserError(f"source: {path} does not exist; fetch it too")
    try:
        value = json_text.read(path)
    except ValueError as error:
        raise UserError(f"source: {path} is no JSON ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise UserError(f"source: {path} is no block of fields; fetch it again")
    return value


def _is_file_name(name: Any) -> bool:
    """Whether it names a file in the folder itself, none above or below."""
    return isinstance(name, str) and bool(re.fullmatch(r"[\w-][\w.-]{0,200}", name))


def _write_json(path: epath.Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
