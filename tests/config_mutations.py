"""What can be wrong with a config in one place, as it follows from the types, limits and rules of its fields.

A part of tests/bad_configs.py.
"""

import copy
import dataclasses
import math
import typing
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from lwm.limits import LARGEST, Limits, kinds
from lwm.models.sizes import TransformerConfig
from lwm.training.experiment import Experiment
from lwm.training.model_block import CONFIGS, read_model

WRONG_TYPES = {
    int: ("12", 1.5, True, None, [1], {"a": 1}),
    float: ("0.1", True, None, [0.1], {"a": 1.0}),
    str: (3, 0.5, None, ["x"], True, {"a": "x"}),
    bool: (1, 0.0, "yes", None, [True]),
    dict: (3, "x", [1], None),
    tuple: (3, "x", {"a": 1}, None),
}
GONE = object()  # the field is taken out


class Mutation(NamedTuple):
    """A change of a config: `path` gets `value`, and the message has to name one of `names`."""

    kind: str
    path: tuple[str, ...]
    value: Any
    names: tuple[str, ...]


def mutations(config: dict) -> Iterator[Mutation]:
    """Everything that is wrong of what one field can have, and of what fields can have together."""
    yield from of_block(Experiment, config, ())
    model, lines = read_model(config["model"])
    assert not lines, lines
    for name in ("name", "size"):
        if name in config["model"]:
            for value in ("nonsense", 3, ["lwm"]):
                yield Mutation("choice", ("model", name), value, (f"config.model.{name}",))
    for mutation in of_block(CONFIGS[config["model"]["name"]][0], vars(model), ("model",)):
        if not (mutation.kind == "missing" and "size" in config["model"]):
            yield mutation
    yield from of_stages(config, model)


def mutated(config: dict, mutation: Mutation) -> dict:
    """A copy of a config with a change in it."""
    config = copy.deepcopy(config)
    block = config
    for key in mutation.path[:-1]:
        block = block.setdefault(key, {})
    if mutation.value is GONE:
        del block[mutation.path[-1]]
    else:
        block[mutation.path[-1]] = mutation.value
    return config


def of_block(cls: type, block: Any, path: tuple[str, ...]) -> Iterator[Mutation]:
    """Of a dataclass and the mapping, or the dataclass, that its fields were read from."""
    held = block if isinstance(block, dict) else vars(block)
    required = {field.name for field in dataclasses.fields(cls) if _required(field)}
    for name, kind in kinds(cls).items():
        if path[:1] == ("stages",) and name == "name":
            continue  # the key of the block
        here = (*path, name)
        for typo in typos(name, kinds(cls)):
            yield Mutation("typo", (*path, typo), held.get(name, 1), (dotted((*path, typo)),))
        if name in required and name in held:
            yield Mutation("missing", here, GONE, (dotted(here),))
        yield from of_value(kind, held.get(name), here)
        yield from of_relation(kind, held, here)


def of_value(kind: Any, value: Any, path: tuple[str, ...]) -> Iterator[Mutation]:
    """Wrong types, and values outside of the limits, of a field that may not be written down."""
    plain, limits = _split(kind)
    origin, arguments, name = typing.get_origin(plain), typing.get_args(plain), dotted(path)
    if dataclasses.is_dataclass(plain):
        yield from (Mutation("type", path, wrong, (name,)) for wrong in WRONG_TYPES[dict])
        yield from of_block(plain, value or {}, path)
        return
    for wrong in WRONG_TYPES[origin or plain]:
        yield Mutation("type", path, wrong, (name,))
    if origin is dict and dataclasses.is_dataclass(arguments[1]):
        for key, item in (value or {}).items():
            yield from of_value(arguments[1], item, (*path, key))
    elif origin is dict:
        for item in of_value(arguments[1], None, (*path, "x")):
            yield item._replace(path=path, value={**(value or {}), "x": item.value})
    elif origin is tuple:
        for item in of_value(arguments[0], None, (*path, "0")):
            yield Mutation(item.kind, path, [item.value], (f"{name}[0]",))
    for wrong in outside(plain, limits):
        yield Mutation("range", path, wrong, (name,))


def outside(kind: type, limits: Any) -> Iterator[Any]:
    """Values of a type that limits exclude."""
    if limits.choices:
        yield from ("nonsense", f"{limits.choices[0]}x", "nan")
    if kind not in (int, float):
        return
    step = 1 if kind is int else 0.5
    if kind is float:
        yield from (math.nan, math.inf, -math.inf)
    else:
        yield from (LARGEST + 1, 10**30)
    if math.isfinite(limits.least):
        yield from (limits.least - step, limits.least - 1000)
    if math.isfinite(limits.above):
        yield from (kind(limits.above), limits.above - step)
    if math.isfinite(limits.below):
        yield from (kind(limits.below), limits.below + step)
    if not isinstance(limits.most, str) and math.isfinite(limits.most):
        yield limits.most + step
    if limits.multiple_of and isinstance(limits.multiple_of, int):
        yield 10 * limits.multiple_of + 1


def of_relation(kind: Any, held: dict, path: tuple[str, ...]) -> Iterator[Mutation]:
    """Values that are at odds with another field of the block."""
    limits, name = _split(kind)[1], (dotted(path),)
    if isinstance(limits.most, str):
        yield Mutation("range", path, held[limits.most] + 1, name)
    if limits.divides and (whole := held.get(limits.divides)):
        yield from (Mutation("divisibility", path, wrong, name) for wrong in (_stranger(whole), whole + 1))
    if isinstance(limits.multiple_of, str) and (part := held.get(limits.multiple_of, 1)) > 1:
        yield Mutation("divisibility", path, 7 * part + 1, name)


def of_stages(config: dict, model: Any) -> Iterator[Mutation]:
    """Batch, length, heads and mesh at odds with each other; stages that shrink; rows of other kinds."""
    before, language = None, getattr(model, "language", model)
    for name, block in config["stages"].items():
        path = ("stages", name)
        where, T = dotted(path), block.get("context_length", 0)
        batch, mixture = "batch_tokens" if T else "batch_size", block.get("mixture")
        rows = block[batch] // max(T, 1)
        yield Mutation("range", path, block | {"name": "../out"}, (f"{where}.name",))
        for axes in ({"data": 0}, {"fsdp": -2}, {"data": -1, "seq": -1}, {"data": -1, "fsdp": -1}):
            named = tuple(f"{where}.mesh.{axis}" for axis in axes)
            yield Mutation("range", (*path, "mesh"), axes, named)
        if T or not mixture:
            for change in (
                {"accumulate": rows + 1},
                {"mesh": {"data": rows + 1}},
                {"mesh": {"fsdp": 2 * rows}},
            ):
                yield Mutation("divisibility", path, block | change, (f"{where}.{batch}",))
        else:
            yield Mutation("divisibility", (*path, "mesh"), {"seq": 2}, (f"{where}.mesh.seq",))
            nothing = dict.fromkeys(mixture, 0.0)
            yield Mutation("range", (*path, "loss_weights"), nothing, (f"{where}.loss_weights",))
            for field, wrong in (
                ("loss_weights", {"x": 1.0}),
                ("at_most", {"x": 9}),
                ("shuffle_labels", ["x"]),
            ):
                yield Mutation("choice", (*path, field), wrong, (f"{where}.{field}",))
        if T:
            yield Mutation("divisibility", (*path, batch), block[batch] + 1, (f"{where}.{batch}",))
            yield Mutation("divisibility", (*path, "mesh"), {"seq": T}, (f"{where}.context_length",))
            stripe = block | {"mesh": {"seq": 2}, "stripe": T}
            yield Mutation("divisibility", path, stripe, (f"{where}.context_length",))
            yield Mutation("range", (*path, "mixture"), {}, (f"{where}.mixture",))
            yield Mutation("range", (*path, "batch_size"), 8, (f"{where}.batch_size",))
        else:
            yield Mutation("range", (*path, "batch_tokens"), 4096, (f"{where}.batch_tokens",))
        if isinstance(language, TransformerConfig):
            for field in ("heads", "kv_heads"):
                axes = {"tensor": _stranger(getattr(language, field))}
                yield Mutation("divisibility", (*path, "mesh"), axes, (f"{where}.mesh.tensor",))
            axes = {"fsdp": _stranger(language.width)}
            yield Mutation("divisibility", (*path, "mesh"), axes, (f"{where}.mesh", f"{where}.{batch}"))
        if before and T:
            theta = before.get("rope_theta", 1e4) / 2
            yield Mutation("growth", (*path, "rope_theta"), theta, (f"{where}.rope_theta",))
            shorter = block | {"context_length": 2, "batch_tokens": rows * 2, "mesh": {}}
            yield Mutation("growth", path, shorter, (f"{where}.context_length",))
        for field in ("frames", "images"):
            if not block.get(field):
                yield Mutation("pairing", (*path, field), 64, (f"{where}.{field}",))
        before = block


def typos(name: str, fields: Collection[str]) -> Iterator[str]:
    """Misspellings of a name that are no names themselves."""
    middle = len(name) // 2
    spoiled = (name + "s", name[:-1], name[:middle] + name[middle + 1 :], name[0] + name, name.upper())
    yield from (typo for typo in dict.fromkeys(spoiled) if typo not in fields and typo not in ("", "size"))


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _split(kind: Any) -> tuple[Any, Any]:
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Annotated else (kind, Limits())


def _stranger(whole: int) -> int:
    """The smallest number that does not divide a whole one."""
    return next(number for number in range(2, whole + 2) if whole % number)


def dotted(path: tuple[str, ...]) -> str:
    return ".".join(("config", *path))
