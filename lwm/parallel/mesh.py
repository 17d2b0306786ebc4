"""The device mesh and its four axes.

    "data"    copies of the model, each with its own rows of the batch
    "fsdp"    rows of the batch too; parameters and optimizer state are cut along it
    "tensor"  attention heads, feed-forward width and vocabulary
    "seq"     positions of a sequence (ring attention); parameters are cut along it as well

The mesh is never passed down: `jax.set_mesh(mesh)` puts it in the context, and models and ops find it with
`jax.sharding.get_abstract_mesh()`. Without a mesh everything runs on one device.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh

from lwm.errors import UserError
from lwm.parallel.torus import in_walks

AXES = ("data", "fsdp", "tensor", "seq")


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    tensor: int = 1,
    seq: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Arranges devices in a mesh with all four axes, "seq" innermost, a walk from neighbour to neighbour.

    Slices of TPUs, and hosts of CPUs, are joined by a slower network (DCN) than that inside of them (ICI).
    "data" lies over them, and "fsdp" if "data" is too small; on slices nothing else may.

    Args:
      data, fsdp, tensor, seq: sizes of the axes; one of them may be -1, "all the remaining devices".
      devices: the devices to use, all of them by default.

    Returns:
      A mesh with Auto axes: shardings given to `jit` and constraints are hints that XLA completes.

    Raises:
      UserError: a size is not a positive whole number, two sizes are -1, the product of the sizes is not
        the number of devices, or data x fsdp cannot be cut over the slices.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor, "seq": seq}
    devices = list(jax.devices() if devices is None else devices)
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise UserError(f"mesh.{name}: {size!r} is no size; use a whole number >= 1, or -1 for the rest")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"mesh.{free[1]}: -1, but mesh.{free[0]} is -1 too; only one axis can take the rest")
    used = math.prod(size for size in sizes.values() if size != -1)
    if free and len(devices) % used == 0:
        sizes[free[0]] = len(devices) // used
    elif free or used != len(devices):
        field = max(sizes, key=sizes.get)
        shape = " x ".join(f"{name}={size}" for name, size in sizes.items())
        fix = f"change the sizes so that their product {'divides' if free else 'is'} {len(devices)}"
        if not free and devices[0].platform == "cpu":
            fix += f", or start with --cpu_devices={used}"
        raise UserError(
            f"mesh.{field}: {sizes[field]}, but {shape} does not fit {len(devices)} devices; {fix}"
        )
    return Mesh(in_walks(_arranged(sizes, devices)), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(sizes: dict[str, int], devices: list[jax.Device]) -> np.ndarray:
    """The devices as an array of these sizes. Those of CPU hosts lie in the order of the hosts."""
    # On a TPU torus of 8 x 8 x 8, tensor=16 and seq=4 have to share a physical axis.
    split = dict(allow_split_physical_axes=True)
    slices = len({getattr(own, "slice_index", 0) for own in devices}) if devices[0].platform == "tpu" else 1
    if slices == 1:
        return create_device_mesh(tuple(sizes.values()), devices, **split)
    data = math.gcd(sizes["data"], slices)
    outside = {"data": data, "fsdp": slices // data, "tensor": 1, "seq": 1}
    if sizes["fsdp"] % outside["fsdp"]:
        raise UserError(
            f"mesh.data: {sizes['data']}, but data={sizes['data']} x fsdp={sizes['fsdp']} cannot be cut over "
            f"{slices} slices, and tensor and seq stay inside of one; make data a multiple of {slices}"
        )
    inside = tuple(sizes[axis] // outside[axis] for axis in AXES)
    return create_hybrid_device_mesh(inside, tuple(outside.values()), devices, **split)


def axis_size(name: str) -> int:
    """Size of one axis of the mesh in context; 1 when there is no mesh or it has no such axis."""
    return jax.sharding.get_abstract_mesh().shape.get(name, 1)
