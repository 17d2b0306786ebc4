"""Files of safetensors: the length of a header (8 bytes), the header in JSON, then the values.

Read and written here a tensor at a time; the package of that name maps whole files into memory, which counts
as memory of the process, and writes only what is in memory all at once.
"""

import json
import math
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from etils import epath

from lwm import bounds, json_text
from lwm.errors import UserError
from lwm.interop.stored import FileTensor

_LENGTH = 8  # bytes of the number that a file begins with
_AXES = 8  # of a tensor, at most
_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def index(path: epath.Path) -> dict[str, FileTensor]:
    """The tensors of a file by name; their values are not read.

    Raises:
      UserError: the file is cut short or damaged, or holds something else than floating point numbers.
    """
    size = path.stat().length
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        text = file.read(length) if length <= min(size - _LENGTH, bounds.HEADER) else b""
    try:
        header = json_text.loads(text)
        header.pop("__metadata__", None)
        entries = {name: _entry(**entry) for name, entry in header.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"source: {path} is cut short or damaged in its header; fetch it again") from error
    found, start = {}, _LENGTH + length
    for name, (kind, shape, (first, last)) in entries.items():
        if kind not in _TYPES:
            raise UserError(
                f"source: {path} keeps {name} in {kind}; only {', '.join(_TYPES)} can be imported"
            )
        dtype = _TYPES[kind]
        if len(shape) > _AXES or last - first != math.prod(shape) * dtype.itemsize:
            raise UserError(f"source: {path} is damaged: {name} has the wrong length; fetch it again")
        if start + last > size:
            raise UserError(f"source: {path} is cut short: {name} ends behind its end; fetch it again")
        found[name] = FileTensor(path, shape, dtype, ((start + first, last - first),))
    if sum(tensor.nbytes for tensor in found.values()) > size - start:
        raise UserError(f"source: {path} is damaged: its tensors overlap; fetch it again")
    return found


def _entry(*, dtype: str, shape: list, data_offsets: list) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """What a header says of a tensor. Raises ValueError or TypeError if it is not of this form."""
    first, last = data_offsets
    if not isinstance(dtype, str) or not all(
        type(size) is int and size >= 0 for size in (*shape, first, last)
    ):
        raise ValueError("a type is no text, or a size no whole number")
    return dtype, tuple(shape), (first, last)


def write(
    path: epath.Path, layout: Mapping[str, tuple[tuple[int, ...], np.dtype]], values: Iterable[np.ndarray]
) -> None:
    """Writes a file of tensors whose shapes and types are known before their values.

    Args:
      layout: (shape, dtype) by name.
      values: one array for each name, in the same order, made when it is asked for.
    """
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, dtype) in layout.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % _LENGTH)  # values begin at a multiple of eight
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH, "little") + text)
        for (shape, dtype), value in zip(layout.values(), values, strict=True):
            if value.shape != shape or value.dtype != dtype:
                raise ValueError(f"value: {value.shape} {value.dtype}, but the header says {shape} {dtype}")
            file.write(memoryview(np.ascontiguousarray(value).reshape(-1).view(np.uint8)))
