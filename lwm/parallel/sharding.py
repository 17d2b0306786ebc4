"""From one table of rules to the shardings of parameters, optimizer state and batches.

A rule is (regex, PartitionSpec). The regex is searched in the "/"-joined path of an array, so a rule for
"attention/wq" holds for the parameter `layers/attention/wq` and for its moments `0/mu/layers/attention/wq`
alike: do not anchor it at the start. The first rule that matches wins.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH = ("data", "fsdp")
Rules = Sequence[tuple[str, PartitionSpec]]


def specs(rules: Rules, tree: Any) -> Any:
    """Gives every array of a tree its PartitionSpec.

    Args:
      rules: (regex, PartitionSpec) pairs, the first match wins.
      tree: arrays or `jax.ShapeDtypeStruct`s: parameters, or anything whose paths end like theirs.

    Returns:
      A tree of the same structure. Arrays of at most one element are replicated without a rule.

    Raises:
      ValueError: no rule matches an array, or its rule names more dimensions than it has.
    """
    return jax.tree_util.tree_map_with_path(lambda path, leaf: _spec(rules, _name(path), leaf), tree)


def shardings(rules: Rules, tree: Any, mesh: Mesh) -> Any:
    """As `specs`, on a mesh: a tree of NamedSharding for `jit`, `device_put` or a checkpoint.

    Raises:
      ValueError: as `specs`; or a dimension is not a multiple of the mesh axes that should cut it.
    """
    return jax.tree.map_with_path(
        lambda path, leaf: _sharding(_spec(rules, _name(path), leaf), _name(path), leaf, mesh), tree
    )


def batch_shardings(batch: Any, mesh: Mesh) -> Any:
    """Shardings of a batch: [B, T] arrays over (("data","fsdp"), "seq"), others by rows over ("data","fsdp").

    The frames of a clip are a sequence as well, whatever stands behind them: `frames` and `features`,
    [B, frames, …], are cut like [B, T]. Rows of several kinds, {kind: {name: array}}, are cut by rows alone.

    Raises:
      ValueError: the mesh does not divide the rows, the length or the number of frames.
    """

    def one(path, leaf):
        name = _name(path)
        sequence = len(path) == 1 and (len(leaf.shape) == 2 or name in ("frames", "features"))
        spec = PartitionSpec(BATCH, "seq") if sequence else PartitionSpec(BATCH)
        return _sharding(spec, f"batch/{name}", leaf, mesh)

    return jax.tree.map_with_path(one, batch)


def constrain(x: jax.Array, *spec: str | tuple[str, ...] | None) -> jax.Array:
    """`with_sharding_constraint(x, PartitionSpec(*spec))` on the mesh in context; `x` itself without one."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(rules: Rules, name: str, leaf) -> PartitionSpec:
    if math.prod(leaf.shape) <= 1:
        return PartitionSpec()
    for pattern, spec in rules:
        if re.search(pattern, name):
            if len(spec) > len(leaf.shape):
                raise ValueError(
                    f"{name}: shape {leaf.shape}, but rule {pattern!r} shards {len(spec)} dimensions"
                )
            return spec
    raise ValueError(f"{name}: no partition rule matches; add one to PARTITION_RULES")


def _sharding(spec: PartitionSpec, name: str, leaf, mesh: Mesh) -> NamedSharding:
    for dim, axes in enumerate(spec):
        names = (axes,) if isinstance(axes, str) else tuple(axes or ())
        missing = [axis for axis in names if axis not in mesh.shape]
        if missing:
            raise ValueError(f"{name}: the mesh has no axis {missing[0]!r}, only {tuple(mesh.shape)}")
        pieces = math.prod(mesh.shape[axis] for axis in names)
        if leaf.shape[dim] % pieces:
            cut = " x ".join(f"{axis}={mesh.shape[axis]}" for axis in names)
            raise ValueError(
                f"{name}: dimension {dim} has {leaf.shape[dim]} entries, not a multiple of {cut}"
            )
    return NamedSharding(mesh, spec)
