"""Compiles the training step of a stage for a pod, and gathers what the compiler tells."""

import dataclasses
import re
import time
from typing import Any

import jax

from lwm.compilation.collectives import Collective, collectives
from lwm.compilation.flops import Flops, held, parameters, parts, train_flops
from lwm.compilation.hlo import Module, largest
from lwm.compilation.roofline import Bound, bound
from lwm.compilation.topology import Pod
from lwm.training.program import Program, train_step
from lwm.training.state import with_shardings

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
_SIZE = r"([\d.]+)([KMGT]?)"


@dataclasses.dataclass(frozen=True)
class Result:
    """What is known of one step on one pod; bytes and bounds are those of one device.

    Attributes:
      fits: whether the compiler found room. needed: the most that is alive at one moment, by the compiler; if
        something lies on the host, which it would count as well, arguments and temporaries together; if it
        does not fit, the temporaries that it asks for. available: what there is.
      temporaries: as the compiler adds them up; more than is alive at once, sometimes more than there is.
      xla_flops: the compiler's count, with the body of every loop counted once and no look inside kernels.
      large: (bytes, shape, where) of the largest arrays. estimate: see `flops.parts`.
    """

    pod: Pod
    program: Program
    fits: bool
    needed: int
    available: int
    arguments: int
    outputs: int
    temporaries: int
    host: int
    parameters: int
    flops: Flops
    xla_flops: float
    found: list[Collective]
    bound: Bound | None
    large: list[tuple[int, str, str]]
    estimate: list[tuple[str, float, str]]
    lowered_in: float
    compiled_in: float

    @property
    def mfu(self) -> float | None:
        """Model FLOPs over peak, at the bound."""
        if self.bound is None:
            return None
        peak = len(self.pod.devices) * self.pod.chip.flops / self.pod.cores
        return self.flops.model / (peak * self.bound.seconds)


def compile_step(pod: Pod, program: Program) -> Result:
    """Compiles the step that `lwm.train` runs, for the devices of a pod.

    Raises:
      jax.errors.JaxRuntimeError: the compiler fails for another reason than lack of memory.
    """
    began = time.monotonic()
    with jax.set_mesh(program.mesh):
        lowered = train_step(program).lower(
            program.state, with_shardings(program.batch, program.batch_shardings)
        )
        lowered_at = time.monotonic()
        try:
            compiled, needed, available = lowered.compile(), 0, 0
        except jax.errors.JaxRuntimeError as error:
            compiled, (needed, available) = None, out_of_memory(str(error))
            if not needed:
                raise
    times = dict(lowered_in=lowered_at - began, compiled_in=time.monotonic() - lowered_at)
    return _result(pod, program, compiled, needed, available, times)


def out_of_memory(message: str) -> tuple[int, int]:
    """(bytes needed, bytes available) from the compiler's refusal; (0, 0) if it is about something else."""
    forms = (
        rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)",
        rf"Used {_SIZE} of {_SIZE} hbm",
    )
    for form in forms:
        if found := re.search(form, message):
            needed, unit, available, other = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(available) * _UNITS[other])
    return 0, 0


def _result(
    pod: Pod, program: Program, compiled: Any, needed: int, available: int, times: dict[str, float]
) -> Result:
    flops, memory, module, xla = train_flops(program), None, None, 0.0
    if compiled is not None:
        memory, module = compiled.memory_analysis(), Module(compiled.as_text())
        needed, xla = memory.peak_memory_in_bytes, compiled.cost_analysis().get("flops", 0.0)
        if memory.host_temp_size_in_bytes:
            needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    found = collectives(module) if module else []
    limit = None
    if memory:
        traffic = memory.argument_size_in_bytes + memory.output_size_in_bytes + 2 * memory.temp_size_in_bytes
        limit = bound(pod.chip, pod.cores, flops.executed / len(pod.devices), traffic, found)
    return Result(
        pod=pod,
        program=program,
        fits=memory is not None,
        needed=needed,
        available=available or pod.usable,
        arguments=memory.argument_size_in_bytes if memory else held(program.state),
        outputs=memory.output_size_in_bytes if memory else 0,
        temporaries=memory.temp_size_in_bytes if memory else 0,
        host=memory.host_temp_size_in_bytes if memory else 0,
        parameters=parameters(program),
        flops=flops,
        xla_flops=xla,
        found=found,
        bound=limit,
        large=largest(module, 6) if module else [],
        estimate=parts(program),
        **times,
    )
