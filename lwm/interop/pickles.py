"""The only pickles that are opened: nested dicts of arrays, and nothing that could run a program.

A pickle names functions that unpickling calls. Here a name is looked up in the table below and nowhere else,
so nothing is imported; instructions that arrays do not need are not known; and arrays are made by us, of
bytes that are there. After that every leaf must be an array of numbers.

The machine is Python's own in Python: that in C makes room for whatever length or number a file claims.
"""

import pickle
from collections.abc import Iterator
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
from etils import epath

from lwm import bounds
from lwm.errors import UserError

_DEEPEST = 32  # dicts in dicts
_DAMAGE = (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError)
_DAMAGE += (OverflowError, AssertionError)


def read_arrays(path: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of a pickled nested dict, by "/"-joined keys.

    Raises:
      UserError: the pickle asks for anything but arrays, is cut short, or holds something else.
    """
    with path.open("rb") as file:
        try:
            tree = _ArraysOnly(_Bounded(file, path.stat().length), path).load()
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"source: {path} is cut short or damaged ({reason}); fetch it again") from error
    return dict(_leaves(tree, path))


class _Bounded:
    """A file that does not try to read more than it has."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        if count > self._left - self._file.tell():
            raise EOFError("it ends too early")
        return self._file.read(count)


class _ArraysOnly(pickle._Unpickler):
    """Knows how NumPy's and JAX's arrays and Flax's dicts are rebuilt, and no other name."""

    # Instructions: marks, memory, texts and bytes, numbers, tuples, lists, dicts, and the making of arrays.
    dispatch = {
        code: pickle._Unpickler.dispatch[code]
        for code in b"\x80\x95.(0pqrghj\x94\x8cX\x8d\x8eBCUTIJKM\x8a\x8bLGN\x88\x89)t\x85\x86\x87]ael}"
        if code in pickle._Unpickler.dispatch
    }
    dispatch |= {code: pickle._Unpickler.dispatch[code] for code in b"c\x93R"}

    def __init__(self, file: _Bounded, path: epath.Path):
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise UserError(
                f"source: {self._path} is a pickle that asks for {module}.{name}, not for arrays alone; "
                "it is not opened, it could run any program"
            )
        return _KNOWN[module, name]

    def load_build(self) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Kind | _Array):
            raise pickle.UnpicklingError(f"a {type(self.stack[-1]).__name__} has no state")
        self.stack[-1].set_state(*state)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list) -> None:
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, str) for key in items[::2]):
            raise pickle.UnpicklingError("a key is no text")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch |= {ord("b"): load_build, ord("s"): load_setitem, ord("u"): load_setitems}
    dispatch[0x96] = dispatch[0x8E]  # bytes that may change are read as bytes


class _Kind:
    """A dtype. numbers: None if it is not one of those that weights have."""

    def __init__(self, name: Any, *_: Any):
        self.name = name[:20] if isinstance(name, str) else type(name).__name__
        self.numbers = np.dtype(_NUMBERS[name]) if isinstance(name, str) and name in _NUMBERS else None

    def set_state(self, version: int, order: str, *_: Any) -> None:
        if order == ">":
            self.numbers = None


class _Array:
    """What NumPy begins an array with; its state follows."""

    def __init__(self, *_: Any):
        self.value: np.ndarray | None = None
        self.kind = "nothing"

    def set_state(self, version: int, shape: tuple, kind: _Kind, fortran: bool, content: Any) -> None:
        self.kind = kind.name
        if kind.numbers is not None:
            # Not copied: many arrays may be made of the same bytes.
            self.value = np.frombuffer(content, kind.numbers).reshape(shape, order="F" if fortran else "C")


def _from_buffer(buffer: Any, kind: _Kind, shape: tuple[int, ...], order: str) -> _Array:
    """What NumPy makes an array of in protocol 5."""
    array = _Array()
    array.set_state(1, shape, kind, order == "F", buffer)
    return array


def _encoded(text: str, encoding: str) -> bytes:
    """How protocols below 3 keep bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are kept in {encoding}")
    return text.encode("latin1")


def _jax_array(make: Any, arguments: tuple, state: tuple, kind: Any) -> _Array:
    """JAX's array is NumPy's with a note of its own, which is left out."""
    array = _Array()
    array.set_state(*state)
    return array


def _tree(content: dict | None = None) -> dict:
    if not isinstance(content, dict | None):
        raise pickle.UnpicklingError("a dict is made of something else")
    return dict(content or {})


_KNOWN = {
    ("_codecs", "encode"): _encoded,
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Kind,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    ("jaxlib.xla_extension", "_reconstruct_array"): _jax_array,
    ("ml_dtypes", "bfloat16"): "bfloat16",
    ("flax.core.frozen_dict", "FrozenDict"): _tree,
    ("collections", "OrderedDict"): _tree,
}
_NUMBERS = {"bfloat16": jnp.bfloat16, "f2": np.float16, "f4": np.float32, "f8": np.float64}


def _leaves(tree: Any, path: epath.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Names and arrays; a file may put one dict into itself, or into many places."""
    waiting, seen = [("", 0, tree)], 0
    while waiting:
        name, depth, node = waiting.pop()
        seen += 1
        if seen > bounds.ENTRIES or depth > _DEEPEST:
            raise UserError(f"source: {path} nests dicts too deeply, or too many; it is no tree of arrays")
        if isinstance(node, dict):
            items = reversed(node.items())
            waiting += [(f"{name}/{key}".lstrip("/"), depth + 1, value) for key, value in items]
        elif isinstance(node, _Array) and node.value is not None:
            yield name, node.value
        else:
            kind = f"array of {node.kind}" if isinstance(node, _Array) else type(node).__name__
            raise UserError(f"source: {path} has {name or 'at its top'} a {kind}, no array of numbers")
