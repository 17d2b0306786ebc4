"""Reads the text of a compiled, scheduled HLO module: computations, instructions, loops and their lengths.

In a scheduled module the order of the lines is the order of execution.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {
    **{"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s32": 4, "u32": 4},
    **{"s64": 8, "u64": 8, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1, "c64": 8},
}

_LINE = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$")
_NO_STORAGE = ("parameter", "tuple", "get-tuple-element", "while", "bitcast", "conditional")
_LAYOUT = re.compile(r"(?<=\])\{[^{}]*\}|/\*index=\d+\*/")


class Instruction(NamedTuple):
    """One line; `text` is what follows the opening parenthesis, operands and attributes."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    text: str
    root: bool

    def called(self, attribute: str) -> str:
        """Name of the computation given as `attribute=%name`, "" if there is none."""
        found = re.search(rf"\b{attribute}=%([\w.-]+)", self.text)
        return found[1] if found else ""

    @property
    def op_name(self) -> str:
        """The path of named scopes that JAX gave the operation."""
        found = re.search(r'op_name="([^"]*)"', self.text)
        return found[1] if found else ""


class Visit(NamedTuple):
    """A computation as it is executed.

    times: in one step; a loop whose length is not known counts once. loops: how many loops are around it.
    certain: the length of all those loops is known.
    """

    computation: str
    times: int
    loops: int
    certain: bool


class Module:
    """Computations by name, each a list of instructions in their order."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._tables: dict[str, dict[str, Instruction]] = {}
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.startswith(("%", "ENTRY ")) and line.endswith("{"):
                name = re.match(r"(?:ENTRY )?%([\w.-]+)", line)[1]
                current = self.computations[name] = []
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif found := _LINE.match(_LAYOUT.sub("", line)):
                root, name, shape, opcode, rest = found.groups()
                operands = tuple(re.findall(r"%([\w.-]+)", rest[: _closing(rest)]))
                current.append(Instruction(name, shape, opcode, operands, rest, bool(root)))

    def table(self, computation: str) -> dict[str, Instruction]:
        """Instructions of a computation by name."""
        if computation not in self._tables:
            self._tables[computation] = {own.name: own for own in self.computations[computation]}
        return self._tables[computation]

    def visits(self) -> Iterator[Visit]:
        """Everything that has a schedule of its own: the entry, bodies of loops, branches, calls."""
        yield from self._visit(Visit(self.entry, 1, 0, True), {})

    def _visit(self, visit: Visit, known: dict[int, int]) -> Iterator[Visit]:
        yield visit
        for own in self.computations[visit.computation]:
            if own.opcode == "while":
                trips, inner = self._trips(own, visit.computation, known)
                certain = visit.certain and trips is not None
                body = Visit(own.called("body"), visit.times * (trips or 1), visit.loops + 1, certain)
                yield from self._visit(body, inner)
            elif own.opcode == "conditional":
                branches = re.search(r"branch_computations=\{([^}]*)\}", own.text)
                names = re.findall(r"%([\w.-]+)", branches[1]) if branches else []
                names = names or [own.called("true_computation"), own.called("false_computation")]
                for name in filter(None, names):
                    yield from self._visit(visit._replace(computation=name), {})
            elif own.opcode == "call":
                yield from self._visit(visit._replace(computation=own.called("to_apply")), {})

    def _trips(
        self, loop: Instruction, caller: str, known: dict[int, int]
    ) -> tuple[int | None, dict[int, int]]:
        """How often a loop runs, None if it cannot be seen; and which of its variables stay what number."""
        start = self.table(caller).get(loop.operands[0])
        first = {}
        if start is not None and start.opcode == "tuple":
            values = [self._number(name, caller, known) for name in start.operands]
            first = {index: value for index, value in enumerate(values) if value is not None}
        condition = self.table(loop.called("condition"))
        root = next(own for own in condition.values() if own.root)
        told = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.text)
        trips = int(told[1]) if told else None
        if not told and root.opcode == "compare" and "direction=LT" in root.text:
            counter, limit = (condition[name] for name in root.operands)
            low = first.get(_index(counter)) if counter.opcode == "get-tuple-element" else None
            high = self._number(limit.name, loop.called("condition"), first)
            trips = high - low if low is not None and high is not None else None
        body = self.computations[loop.called("body")]
        result = next(own for own in body if own.root)
        table = self.table(loop.called("body"))
        same = {
            index: value
            for index, value in first.items()
            if result.opcode == "tuple" and _forwards(table.get(result.operands[index]), index)
        }
        return trips, same

    def _number(self, name: str, computation: str, known: dict[int, int]) -> int | None:
        own = self.table(computation).get(name)
        while own is not None and own.opcode in ("copy", "bitcast", "convert") and own.operands:
            own = self.table(computation).get(own.operands[0])
        if own is None:
            return None
        if own.opcode == "get-tuple-element":
            of_caller = self.table(computation)[own.operands[0]].opcode == "parameter"
            return known.get(_index(own)) if of_caller else None
        found = re.match(r"(-?\d+)\)", own.text) if own.opcode == "constant" else None
        return int(found[1]) if found else None


def size(shape: str) -> int:
    """Bytes of an array or of all arrays of a tuple."""
    total = 0.0
    for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        total += BYTES.get(kind, 0) * math.prod(int(dim) for dim in dims.split(",") if dim)
    return int(total)


def largest(module: Module, count: int) -> list[tuple[int, str, str]]:
    """(bytes, shape, path of scopes) of the largest results of any instruction that is executed."""
    seen = {}
    for visit in module.visits():
        for own in module.computations[visit.computation]:
            if own.opcode not in _NO_STORAGE and not own.shape.startswith("("):
                seen.setdefault((size(own.shape), own.shape), own.op_name)
    ranked = sorted(((total, shape, where) for (total, shape), where in seen.items()), reverse=True)
    return ranked[:count]


def _closing(text: str) -> int:
    """Index of the parenthesis that closes the operands."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return index
    return len(text)


def _index(own: Instruction) -> int:
    return int(re.search(r"index=(\d+)", own.text)[1])


def _forwards(own: Instruction | None, index: int) -> bool:
    return own is not None and own.opcode == "get-tuple-element" and _index(own) == index
