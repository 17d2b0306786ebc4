"""How long a step would take at the peak rate of the devices that it runs on: what MFU is measured by."""

from collections.abc import Sequence
from typing import Any

from lwm.compilation.chips import CHIPS, Chip
from lwm.compilation.flops import train_flops
from lwm.training.program import Program

# What JAX calls the devices of each generation.
_KINDS = {"TPU v3": "v3", "TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p"}
_KINDS |= {"TPU v5p": "v5p", "TPU v6 lite": "v6e", "TPU v6e": "v6e", "TPU7x": "tpu7x"}


def seconds_at_peak(program: Program) -> float | None:
    """Model FLOPs of a step over the peak of its devices; None if these are no known chips."""
    found = chips_of(program.mesh.devices.flat)
    return train_flops(program).model / (found[1] * found[0].flops) if found else None


def chips_of(devices: Sequence[Any]) -> tuple[Chip, int] | None:
    """The kind of chips that devices are on, and how many of them: one has up to two devices."""
    devices = list(devices)
    if (name := _KINDS.get(devices[0].device_kind)) is None:
        return None
    return CHIPS[name], len({(getattr(own, "slice_index", 0), *own.coords) for own in devices})
