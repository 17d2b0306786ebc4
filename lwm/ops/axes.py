"""The mesh axes that operations know by name; parallel/mesh.py says what each is for."""

import math
from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

ROWS, SEQUENCE, TENSOR = ("data", "fsdp"), ("seq",), ("tensor",)
Axes = tuple[str, ...]


def active(axes: Axes) -> Axes:
    """Those of the axes that have more than one device in the mesh in context; none without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(axis for axis in axes if mesh.shape.get(axis, 1) > 1)


def pieces(axes: Axes) -> int:
    """Into how many pieces a dimension is cut that lies over these axes."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in active(axes))


def check_divides(letter: str, length: int, axes: Axes) -> None:
    """Raises ValueError if a dimension cannot be cut into equal pieces over these axes."""
    if length % pieces(axes):
        raise ValueError(f"{letter}: {length} is not a multiple of mesh axes {axes} = {pieces(axes)}")


def spec(*dimensions: Axes) -> PartitionSpec:
    """The PartitionSpec that lays each dimension over its axes, as far as the mesh in context has them.

    Axes of one device are named as well: the gradient of a shard is summed over all axes that are not.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return PartitionSpec(*(tuple(axis for axis in axes if axis in mesh.shape) for axes in dimensions))


def constrain(x: jax.Array, sharding: PartitionSpec) -> jax.Array:
    """`with_sharding_constraint`, or `x` itself without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, sharding)


def per_device(fn: Callable, in_specs, out_specs) -> Callable:
    """`fn` on the shards of each device of the mesh in context, with collectives over `active` axes.

    Without a mesh, `fn` itself. The caller answers for what is equal on several devices.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return fn
    return jax.shard_map(fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def index(axes: Axes) -> jax.Array | int:
    """Number of this device along these axes, the first one slowest; 0 outside of a mesh."""
    return jax.lax.axis_index(active(axes)) if active(axes) else 0
