"""The state of a run: what a checkpoint holds and a step changes; and how the rules table lays it out."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lwm.parallel import sharding


class TrainState(NamedTuple):
    """A pytree.

    step: int32 scalar, finished optimizer steps of this stage.
    params: nested dict of float32 arrays.
    opt_state: of optax.
    key: typed PRNG key of the stage, always the same: the key of a step is folded from it and from `step`.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def new_state(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step, for use under `jit` or `eval_shape`."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), key)


def param_shapes(model: Any, batch: dict, mesh: Mesh | None) -> Any:
    """Parameters as `jax.ShapeDtypeStruct`s with the shardings of the rules table; nothing is allocated.

    Args:
      model: see `lwm.systems`.
      batch: arrays or `ShapeDtypeStruct`s.
      mesh: None = one device.

    Raises:
      ValueError: a parameter without a rule, or with a dimension that the mesh does not divide.
    """
    # Shapes do not depend on the mesh, and without one in context there is no ring to trace.
    with jax.set_mesh(None):
        params = jax.eval_shape(lambda key: model.init(key, _zeros(batch)), _abstract_key())
    if mesh is None:
        return params
    return with_shardings(params, sharding.shardings(model.PARTITION_RULES, params, mesh))


def state_shapes(
    model: Any, optimizer: optax.GradientTransformation, batch: dict, mesh: Mesh | None
) -> TrainState:
    """As `param_shapes`, for the whole state: moments lie as their parameters do, scalars on every device."""
    params = param_shapes(model, batch, mesh)
    state = jax.eval_shape(lambda params, key: new_state(params, optimizer, key), params, _abstract_key())
    if mesh is None:
        return state
    everywhere = NamedSharding(mesh, PartitionSpec())
    layout = TrainState(
        step=everywhere,
        params=jax.tree.map(lambda leaf: leaf.sharding, params),
        opt_state=sharding.shardings(model.PARTITION_RULES, state.opt_state, mesh),
        key=everywhere,
    )
    return with_shardings(state, layout)


def init_state(
    model: Any, optimizer: optax.GradientTransformation, key: jax.Array, batch: dict, mesh: Mesh | None = None
) -> TrainState:
    """Random parameters and fresh moments, each shard made where it lives; the mesh changes no number.

    Raises:
      ValueError: as `param_shapes`.
    """
    init_key, train_key = jax.random.split(key)

    def init(init_key, train_key):
        return new_state(model.init(init_key, _zeros(batch)), optimizer, train_key)

    layout = shardings_of(state_shapes(model, optimizer, batch, mesh)) if mesh is not None else None
    with jax.set_mesh(None):
        return jax.jit(init, out_shardings=layout)(init_key, train_key)


def shardings_of(shapes: Any) -> Any:
    """The shardings of a tree of arrays or of `ShapeDtypeStruct`s that have them."""
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """The same `ShapeDtypeStruct`s, each with its sharding."""
    return jax.tree.map(
        lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=own), shapes, shardings
    )


def lay_out(rules: sharding.Rules, tree: Any) -> Any:
    """Under `jit`: pins parameters, gradients or moments to the rules table, given a mesh in context."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, sharding.specs(rules, tree))


def _zeros(batch: dict) -> dict:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)


def _abstract_key() -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.key(0))
