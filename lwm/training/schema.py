"""Builds frozen dataclasses from nested mappings, naming the field, the value and the fix when it cannot."""

import dataclasses
import difflib
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from lwm.errors import UserError

T = TypeVar("T")

_ADVICE = {
    int: "write a whole number",
    float: "write a number",
    str: "write a text",
    bool: "write True or False",
    dict: "write a block of fields",
    tuple: "write a list",
}


def build(cls: type[T], block: Any, *, path: str) -> T:
    """Builds the dataclass `cls` from a mapping, its dataclass fields and mappings of dataclasses included.

    Args:
      cls: a dataclass with fields of int, float, str, bool, dict, dict[str, X], tuple[X, ...] or dataclasses.
        A dataclass in a `dict[str, X]` with a field `name` takes its key for it.
      block: a mapping from field names to values; whole numbers will do for floats.
      path: what to call the block in messages, "config.stages.s8k".

    Raises:
      UserError: an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(block, Mapping):
        raise _wrong(path, dict, block)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in block:
        if name not in fields:
            raise UserError(
                f"{path}.{name}: there is no such field (value {block[name]!r}); {suggest(name, fields)}"
            )
    types, values = typing.get_type_hints(cls), {}
    for name, field in fields.items():
        if name in block:
            values[name] = _value(types[name], block[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            advice = _ADVICE.get(typing.get_origin(types[name]) or types[name], _ADVICE[dict])
            raise UserError(f"{path}.{name}: missing (no value); {advice} there")
    return cls(**values)


def suggest(name: Any, known: Collection[str]) -> str:
    """The fix for a name that is not known: the closest one, or all of them."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _part(kind, value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(path, dict, value)
        return {
            str(key): _value(arguments[1], _named(arguments[1], key, item), f"{path}.{key}")
            for key, item in value.items()
        }
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(path, tuple, value)
        return tuple(_value(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if kind is dict and isinstance(value, Mapping):
        return dict(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise _wrong(path, kind, value)
    return value


def _part(kind: Any, value: Any, path: str) -> Any:
    """A dataclass inside another; what it says of its own fields is told with the path to them."""
    try:
        return build(kind, value, path=path)
    except UserError as error:
        top = path.partition(".")[0]
        if str(error).startswith(f"{top}."):
            raise
        raise UserError(f"{path}.{error}") from error


def _named(kind: Any, key: Any, item: Any) -> Any:
    takes_name = dataclasses.is_dataclass(kind) and "name" in {
        field.name for field in dataclasses.fields(kind)
    }
    return {"name": str(key), **item} if takes_name and isinstance(item, Mapping) else item


def _wrong(path: str, kind: type, value: Any) -> UserError:
    name = "a block" if kind is dict else "a list" if kind is tuple else kind.__name__
    return UserError(f"{path}: expected {name}, found {value!r}; {_ADVICE[kind]}")
