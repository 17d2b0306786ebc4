"""What the fields of a config may hold, written into their types: `steps: Annotated[int, Limits(least=1)]`.

A dataclass whose fields are so declared calls `check(self)` in its `__post_init__`, or is read from a mapping
by `training.schema`. What several fields say together and no `Limits` can tell is a rule: a function from the
block to lines "field: value …; fix", in the tuple RULES of the class. All that is wrong is told at once. A
rule that reads a field which is itself out of order says nothing, so that no mistake is told twice.
"""

import contextlib
import dataclasses
import difflib
import functools
import math
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from lwm.errors import refuse

LARGEST = 2**31 - 1  # JAX counts in int32
Rules = tuple[Callable[[Any], Iterable[str]], ...]

_ADVICE = {
    int: "write a whole number",
    float: "write a number",
    str: "write a text",
    bool: "write True or False",
    dict: "write a block of fields",
    tuple: "write a list",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one value. A number is finite in any case, and a whole number fits into an int32.

    Attributes:
      least, most: the smallest and the largest value; `most` may name another field, whose value it is.
      above, below: every value is larger, smaller.
      choices: all values there are.
      divides: the field that is a multiple of this one.
      multiple_of: the number, or the field, that this one is a multiple of; 0 = none.
    """

    least: float = -math.inf
    most: float | str = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    divides: str = ""
    multiple_of: int | str = 0

    def refuse(self, value: Any) -> str:
        """Why a value of the right type is none of these, and the fix; "" if it is."""
        if self.choices and value not in self.choices:
            return f"is not known; {suggest(value, self.choices)}"
        if not isinstance(value, int | float):
            return ""
        if isinstance(value, float) and not math.isfinite(value):
            return "is no finite number; write one"
        if value <= self.above:
            return "is not positive; use a number above 0" if self.above == 0 else _more(self.above)
        if value < self.least:
            return f"is too small; use {self.least} or more"
        if value >= self.below:
            return f"is too large; use less than {self.below}"
        most = LARGEST if isinstance(value, int) else math.inf
        if value > (most := most if isinstance(self.most, str) else min(self.most, most)):
            return f"is too large; use at most {most}"
        if self.multiple_of and isinstance(self.multiple_of, int) and value % self.multiple_of:
            return f"is no multiple of {self.multiple_of}; use one"
        return ""

    def clash(self, value: Any, block: Any) -> str:
        """Why a value does not go with the other fields of its block, and the fix; "" if it does."""
        if isinstance(self.most, str) and value > (most := getattr(block, self.most)):
            return f"is more than {self.most} = {most}; use at most {most}"
        if self.divides and (whole := getattr(block, self.divides)) % value:
            return f"does not divide {self.divides} = {whole}; choose a divisor"
        if isinstance(self.multiple_of, str) and value % (part := getattr(block, self.multiple_of)):
            return f"is no multiple of {self.multiple_of} = {part}; use one"
        return ""


SIZE = Limits(least=1)
COUNT = Limits(least=0)
POSITIVE = Limits(above=0)
SHARE = Limits(least=0, below=1)


def check(block: Any) -> None:
    """Checks types, limits and rules of a dataclass.

    Raises:
      UserError: with a line for everything that is wrong.
    """
    values, wrong, lines = vars(block), set(), []
    for name, kind in kinds(type(block)).items():
        if own := list(faults(kind, values[name], name)):
            wrong.add(name)
            lines += own
    refuse([*lines, *relate(type(block), values, wrong)[1]])


def relate(cls: type, values: Mapping[str, Any], wrong: Collection[str]) -> tuple[Any, list[str]]:
    """What is wrong between the fields of a block, of which some are known to be `wrong` by themselves.

    Returns:
      the block, made without its `__post_init__`, in which a wrong field cannot be read; and the lines.
    """
    block, lines = _stand_in(cls, values, wrong), []
    for name, kind in kinds(cls).items():
        with contextlib.suppress(Unread):
            if why := _split(kind)[1].clash(getattr(block, name), block):
                lines.append(f"{name}: {values[name]!r} {why}")
    for rule in getattr(cls, "RULES", ()):
        with contextlib.suppress(Unread):
            for line in rule(block):
                lines.append(line)
    return block, lines


def faults(kind: Any, value: Any, path: str) -> Iterator[str]:
    """What keeps a value from being of a kind, by itself: type and limits. Blocks check themselves."""
    plain, limits = _split(kind)
    origin, arguments = typing.get_origin(plain), typing.get_args(plain)
    if dataclasses.is_dataclass(plain):
        return
    if not _is(origin or plain, value):
        yield wrong_type(path, origin or plain, value)
    elif origin is dict:
        for key, item in value.items():
            yield from faults(arguments[1], item, f"{path}.{key}")
    elif origin is tuple:
        for index, item in enumerate(value):
            yield from faults(arguments[0], item, f"{path}[{index}]")
    elif why := limits.refuse(value):
        yield f"{path}: {value!r} {why}"


def wrong_type(path: str, kind: type, value: Any) -> str:
    """The line about a value of another type."""
    name = "a block" if kind is dict else "a list" if kind is tuple else kind.__name__
    return f"{path}: expected {name}, found {value!r}; {_ADVICE[kind]}"


def missing(path: str, kind: Any) -> str:
    """The line about a value that is not there."""
    plain = _split(kind)[0]
    return (
        f"{path}: missing (no value); {_ADVICE.get(typing.get_origin(plain) or plain, _ADVICE[dict])} there"
    )


def suggest(name: Any, known: Collection[str]) -> str:
    """The fix for a name that is not known: the closest one, or all of them."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return (
        f"did you mean {close[0]!r}?"
        if close
        else f"choose from {', '.join(str(one) or repr('') for one in known)}"
    )


@functools.cache
def kinds(cls: type) -> dict[str, Any]:
    """The types of the fields of a dataclass, with their limits."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


class Unread(Exception):
    """A rule wanted to know a field that is out of order."""


def _stand_in(cls: type, values: Mapping[str, Any], wrong: Collection[str]) -> Any:
    def read(self, name):
        if name in wrong:
            raise Unread(name)
        return object.__getattribute__(self, name)

    block = object.__new__(type(cls.__name__, (cls,), {"__getattribute__": read}) if wrong else cls)
    for name in values.keys() - wrong:
        object.__setattr__(block, name, values[name])
    return block


def _split(kind: Any) -> tuple[Any, Limits]:
    if typing.get_origin(kind) is not typing.Annotated:
        return kind, Limits()
    plain, limits = typing.get_args(kind)
    return plain, limits


def _is(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    allowed = {float: (int, float), dict: Mapping, tuple: (list, tuple)}
    return isinstance(value, allowed.get(kind, kind))


def _more(bound: float) -> str:
    return f"is too small; use more than {bound}"
