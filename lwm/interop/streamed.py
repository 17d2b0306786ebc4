"""The streamed msgpack files of tux, the library that LWM was trained with.

A file is a sequence of pairs (key, value): the key an array of texts, the path of a tensor; the value a
binary that holds what `flax.serialization.to_bytes` makes of the tensor: an extension of type 1 with (shape,
name of the dtype, bytes), or for more than 1 GiB a map of such pieces of the flattened tensor. Only the small
things are read here: bytes of tensors are skipped, and where they lie is remembered.
"""

import struct
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np
from etils import epath

from lwm.errors import UserError
from lwm.interop.stored import FileTensor

_ARRAY = 1  # flax's extension type of an array; others are scalars and complex numbers
_AXES = 8  # of a tensor, at most
_CHUNKED = "__msgpack_chunked_array__"
_TYPES = {
    "bfloat16": np.dtype(jnp.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
# First byte of a length: what it is the length of, and the struct format of the number behind it.
_LENGTHS = {
    **{0xC4: ("binary", ">B"), 0xC5: ("binary", ">H"), 0xC6: ("binary", ">I")},
    **{0xC7: ("extension", ">B"), 0xC8: ("extension", ">H"), 0xC9: ("extension", ">I")},
    **{0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I")},
    **{0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I")},
}
_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}


def index(path: epath.Path) -> dict[str, FileTensor]:
    """The tensors of a file by "/"-joined key; values that are no floating point tensors are left out.

    Raises:
      UserError: the file is cut short, or is not of this kind.
    """
    size, found, name = path.stat().length, {}, ""
    with path.open("rb") as file:
        reader = _Reader(file, size)
        try:
            while reader.position < size:
                reader.expect("array", 2)
                name = "/".join(reader.text() for _ in range(reader.expect("array")))
                end = reader.expect("binary") + reader.position
                tensor = _tensor(reader, path)
                if tensor is not None:
                    found[name] = tensor
                reader.jump(end)
        except EOFError as error:
            raise UserError(
                f"source: {path} is cut short behind {name or 'its start'}; fetch it again"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"source: {path} is damaged behind {name or 'its start'} ({error})") from error
    return found


def _tensor(reader: "_Reader", path: epath.Path) -> FileTensor | None:
    """Where the values of one value lie, None if it is no tensor of floating point numbers."""
    kind, length = reader.head()
    if kind == "extension":
        return _array(reader, path)
    if kind != "map":
        return None
    shape, pieces = (), []
    for _ in range(length):
        field = reader.text()
        if field == "shape":
            sizes = {reader.text(): reader.size() for _ in range(reader.expect("map"))}
            shape = tuple(sizes[str(axis)] for axis in range(len(sizes)))
        elif field == "chunks":
            for _ in range(reader.expect("map")):
                reader.text()
                reader.expect("extension")
                pieces.append(_array(reader, path))
        elif field == _CHUNKED:
            reader.head()
        else:
            raise ValueError(f"unknown field {field}")
    if not pieces or None in pieces:
        return None
    extents = tuple(extent for piece in pieces for extent in piece.pieces)
    return _checked(FileTensor(path, shape, pieces[0].dtype, extents))


def _array(reader: "_Reader", path: epath.Path) -> FileTensor | None:
    """The inside of an extension, whose head has been read; the reader ends behind it."""
    if reader.extension != _ARRAY:
        return None
    reader.expect("array", 3)
    shape = tuple(reader.size() for _ in range(reader.expect("array")))
    dtype = _TYPES.get(reader.text())
    length = reader.expect("binary")
    extent = (reader.position, length)
    reader.jump(reader.position + length)
    return None if dtype is None else _checked(FileTensor(path, shape, dtype, (extent,)))


def _checked(tensor: FileTensor) -> FileTensor:
    held = sum(length for _, length in tensor.pieces)
    if len(tensor.shape) > _AXES:
        raise ValueError(f"shape {tensor.shape} has more than {_AXES} axes")
    if held != tensor.nbytes:
        raise ValueError(f"shape {tensor.shape} needs {tensor.nbytes} bytes, there are {held}")
    return tensor


class _Reader:
    """Reads the heads of msgpack values and jumps over what they hold; EOFError at the end of the file."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size
        self.position, self.extension = 0, -1

    def jump(self, position: int) -> None:
        if position > self._size:
            raise EOFError
        self._file.seek(position)
        self.position = position

    def take(self, count: int) -> bytes:
        if self.position + count > self._size:  # before so much is made room for
            raise EOFError
        data = self._file.read(count)
        if len(data) < count:
            raise EOFError
        self.position += count
        return data

    def head(self) -> tuple[str, float]:
        """Kind of the next value, and its length or, of a number, its value; then stands inside of it."""
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return "number", first if first < 0x80 else first - 256
        if first < 0xC0:
            kind, mask = ("map", 15) if first < 0x90 else ("array", 15) if first < 0xA0 else ("text", 31)
            return kind, first & mask
        if first in (0xC0, 0xC2, 0xC3):
            return "constant", first
        if first in _NUMBERS:
            return "number", self._unpack(_NUMBERS[first])
        if 0xD4 <= first <= 0xD8:
            kind, length = "extension", 1 << (first - 0xD4)
        elif first in _LENGTHS:
            kind, length = _LENGTHS[first][0], self._unpack(_LENGTHS[first][1])
        else:
            raise ValueError(f"byte {first:#x} begins no value")
        if kind == "extension":
            self.extension = self._unpack(">b")
        return kind, length

    def expect(self, kind: str, length: int | None = None) -> int:
        """Length of the next value, which must be of this kind (and length)."""
        found = self.head()
        if found[0] != kind or length not in (None, found[1]):
            raise ValueError(f"found {found[0]} {found[1]} where {kind} should be")
        return found[1]

    def text(self) -> str:
        kind, length = self.head()
        if kind not in ("text", "binary"):
            raise ValueError(f"found {kind} where text should be")
        return self.take(length).decode("utf-8")

    def size(self) -> int:
        size = self.expect("number")
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"found a size of {size}")
        return size

    def _unpack(self, form: str):
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]
