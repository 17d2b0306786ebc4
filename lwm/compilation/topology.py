"""Pods by name: the devices of a TPU slice that nobody has to own, from the compiler inside libtpu."""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from lwm.compilation.chips import CHIPS, Chip

FORM = "GENERATION:AxB[xC][,megacore], for example v5e:2x4 or v4:8x8x8,megacore"


class Pod(NamedTuple):
    """A slice.

    devices: what a mesh is made of; two to a chip on v3, v4 without megacore, and tpu7x.
    cores: devices of one chip.
    """

    name: str
    chip: Chip
    devices: list[jax.Device]
    cores: int

    @property
    def usable(self) -> int:
        """Bytes of memory that a program gets on one device."""
        return int(self.chip.usable.get(self.cores, 0) * 2**30)


def open_pod(name: str) -> Pod:
    """The slice of that name, without its hardware; call it before anything starts a JAX backend.

    Only one process at a time can hold libtpu.

    Args:
      name: see FORM. On v4, "megacore" makes the two cores of a chip one device with all of its memory.

    Raises:
      ValueError: no such generation or shape, or no libtpu.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){1,2})(,megacore)?", name)
    if not found:
        raise ValueError(f"topology: {name!r} is no name of a pod; write {FORM}")
    generation, shape, megacore = found.groups()
    if generation not in CHIPS:
        raise ValueError(f"topology: {name!r} is of no known generation; choose from {', '.join(CHIPS)}")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(f"topology: {name!r} needs libtpu, which is not installed; pip install -e '.[tpu]'")
    # There is no metadata server to ask, and the backend of this process is the CPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")
    jax.config.update("jax_platforms", "cpu")
    options = {"chip_config_name": "megacore"} if megacore else {}
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{generation}:{shape}", **options
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"topology: {name!r} is not known to libtpu ({reason}); write {FORM}") from error
    chips = math.prod(int(side) for side in shape.split("x"))
    return Pod(name, CHIPS[generation], list(devices), len(devices) // chips)
