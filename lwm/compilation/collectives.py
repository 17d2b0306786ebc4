"""Every collective of a compiled module: how often, how many bytes, and whether compute hides it."""

import math
import re
from typing import NamedTuple

from lwm.compilation.hlo import Instruction, Module, size

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# What takes time on the matrix units, and so covers a transfer: loops, branches, products, kernels.
_COMPUTE = ("while", "conditional", "call", "convolution", "dot")


class Collective(NamedTuple):
    """One instruction, in all its executions.

    Attributes:
      group: devices that take part in it together.
      bytes: what one device sends in one execution.
      times: executions in a step (at least, if not `certain`); loops: how many loops are around it.
      hidden: it is asynchronous, and a product, kernel or loop stands between its start and its end.
      where: path of the named scopes.
    """

    kind: str
    name: str
    group: int
    bytes: int
    times: int
    certain: bool
    loops: int
    hidden: bool
    where: str

    @property
    def total(self) -> int:
        """Bytes that one device sends in a step."""
        return self.bytes * self.times


def collectives(module: Module) -> list[Collective]:
    """All of them, those in fusions and asynchronous wrappers too, in the order of execution."""
    found = []
    for visit in module.visits():
        order = module.computations[visit.computation]
        table = module.table(visit.computation)
        ends = {own.operands[0]: index for index, own in enumerate(order) if own.opcode.endswith("-done")}
        for index, own in enumerate(order):
            inner = _inner(module, own, table)
            if inner is None:
                continue
            kind, leaf, home = inner
            operands = [home[name].shape for name in leaf.operands if name in home]
            group = _group(leaf.text)
            between = order[index + 1 : ends.get(own.name, index + 1)]
            found.append(
                Collective(
                    kind,
                    own.name,
                    group,
                    _sent(kind, sum(map(size, operands)), group),
                    visit.times,
                    visit.certain,
                    visit.loops,
                    any(_computes(other) for other in between),
                    own.op_name or leaf.op_name,
                )
            )
    return found


def _inner(
    module: Module, own: Instruction, table: dict[str, Instruction]
) -> tuple[str, Instruction, dict[str, Instruction]] | None:
    """(kind, instruction, its computation) of the collective that an instruction is or holds."""
    kind = own.opcode.removesuffix("-start")
    if kind in KINDS:
        return kind, own, table
    name = own.called("calls")
    if own.opcode in ("fusion", "async-start") and name:
        for leaf in module.computations.get(name, ()):
            kind = leaf.opcode.removesuffix("-start")
            if kind in KINDS:
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else kind
                return kind, leaf, module.table(name)
    return None


def _computes(own: Instruction) -> bool:
    kernel = own.opcode == "custom-call" and "tpu_custom_call" in own.text
    product = own.opcode == "fusion" and "kind=kOutput" in own.text
    return own.opcode in _COMPUTE or kernel or product


def _group(text: str) -> int:
    """Devices in one group of `replica_groups`, in any of its three notations; 0 = not told."""
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", text):
        return len(found[1].split(","))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]", text):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\].*?\{([^}]*)\}", text):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"source_target_pairs=\{(.*?)\}\}", text):
        return found[1].count("{")
    return 0


def _sent(kind: str, operands: int, group: int) -> int:
    """Bytes that a device sends in the best algorithm on a ring."""
    rest = (group - 1) / group if group else 1.0
    factor = {
        "all-gather": max(group - 1, 1),
        "all-reduce": 2 * rest,
        "reduce-scatter": rest,
        "all-to-all": rest,
        "collective-permute": 1,
    }
    return int(operands * factor[kind])
