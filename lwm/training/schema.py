"""Builds frozen dataclasses from nested mappings, naming every field that is wrong, its value and the fix."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from lwm import limits
from lwm.errors import refuse
from lwm.limits import suggest

T = TypeVar("T")


def build(cls: type[T], block: Any, *, path: str) -> T:
    """Builds the dataclass `cls` from a mapping, its dataclass fields and mappings of dataclasses included.

    Args:
      cls: a dataclass with fields of int, float, str, bool, dict, dict[str, X], tuple[X, ...] or dataclasses,
        with limits and rules (see `lwm.limits`) or without. A dataclass in a `dict[str, X]` with a field
        `name` takes its key for it.
      block: a mapping from field names to values; whole numbers will do for floats.
      path: what to call the block in messages, "config.stages.s8k".

    Raises:
      UserError: an unknown or missing field, a value of the wrong type or out of range, or values that do not
        go together; with a line for each.
    """
    built, lines = read(cls, block, path=path)
    refuse(lines)
    return built


def read(cls: type[T], block: Any, *, path: str) -> tuple[T, list[str]]:
    """As `build`, but returns what is wrong as lines.

    With lines, the dataclass is one in which a field that is wrong by itself raises `limits.Unread`.
    """
    values, lines, wrong = {}, [], set()
    fields, kinds = {field.name: field for field in dataclasses.fields(cls)}, limits.kinds(cls)
    if not isinstance(block, Mapping):
        return limits.relate(cls, {}, set(fields))[0], [limits.wrong_type(path, dict, block)]
    for name in block:
        if name not in fields:
            fix = suggest(name, fields)
            lines.append(f"{path}.{name}: there is no such field (value {block[name]!r}); {fix}")
            # What was meant is not known, and neither missing nor left at its default.
            wrong |= set(difflib.get_close_matches(str(name), fields, n=1)) - set(block)
    for name, field in fields.items():
        if name in block:
            values[name], own, readable = _value(kinds[name], block[name], f"{path}.{name}")
            lines += own
            wrong |= set() if readable else {name}
        elif field.default is not dataclasses.MISSING:
            values[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[name] = field.default_factory()
        elif name not in wrong:
            lines.append(limits.missing(f"{path}.{name}", kinds[name]))
            wrong.add(name)
    built, between = limits.relate(cls, values, wrong)
    lines += [f"{path}.{line}" for line in between]
    return built if lines else cls(**values), lines


def _value(kind: Any, value: Any, path: str) -> tuple[Any, list[str], bool]:
    """The value as the kind that it should be, what is wrong with it, and whether rules may read it."""
    if dataclasses.is_dataclass(kind):
        return *read(kind, value, path=path), isinstance(value, Mapping)
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is dict and isinstance(value, Mapping) and dataclasses.is_dataclass(parts[1]):
        found = {
            str(key): read(parts[1], _named(parts[1], key, item), path=f"{path}.{key}")
            for key, item in value.items()
        }
        return (
            {key: own for key, (own, _) in found.items()},
            sum((own for _, own in found.values()), []),
            True,
        )
    lines = list(limits.faults(kind, value, path))
    return (value if lines else _converted(kind, value)), lines, not lines


def _converted(kind: Any, value: Any) -> Any:
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    origin, parts = typing.get_origin(plain), typing.get_args(plain)
    if origin is dict:
        return {str(key): _converted(parts[1], item) for key, item in value.items()}
    if origin is tuple:
        return tuple(_converted(parts[0], item) for item in value)
    return plain(value)


def _named(kind: Any, key: Any, item: Any) -> Any:
    takes_name = "name" in {field.name for field in dataclasses.fields(kind)}
    return {"name": str(key), **item} if takes_name and isinstance(item, Mapping) else item
