"""Where the weights of a stage come from: its own checkpoint, the stage before, another run, or chance."""

from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from lwm.errors import UserError
from lwm.training.checkpoints import latest_stage, restore_params, saved_params, stage_folder
from lwm.training.experiment import Experiment
from lwm.training.plan import Plan
from lwm.training.recovery import whole_step
from lwm.training.state import TrainState, init_state, new_state, shardings_of
from lwm.training.workdir import read_config


def first_state(plan: Plan, experiment: Experiment, workdir: epath.PathLike) -> TrainState:
    """The state of a stage that has no checkpoint yet, with a new optimizer, schedule and key.

    Its weights are the last ones of the stage before; of the first stage those of `experiment.init`, and what
    that run does not have (say, the vision tables that a language model lacks) is random.

    Raises:
      UserError: no checkpoint to start from is whole; or, of the stage before, its last one is not.
    """
    key = jax.random.fold_in(jax.random.key(experiment.seed), plan.index)
    source = parent_folder(experiment, workdir, plan.index)
    if source is None:
        return init_state(plan.model, plan.optimizer, key, plan.batch, plan.mesh)
    step = whole_step(source)
    if plan.index and step < list(experiment.stages.values())[plan.index - 1].steps:
        raise UserError(
            f"{source}: its last checkpoint was damaged after it was saved; run the same command again: it "
            f"goes on from step {step}"
        )
    init_key, train_key = jax.random.split(key)
    params = _grown(plan, source, step, init_key)
    start = jax.jit(
        lambda params, key: new_state(params, plan.optimizer, key),
        out_shardings=shardings_of(plan.state),
        donate_argnums=0,
    )
    return start(params, train_key)


def parent_folder(experiment: Experiment, workdir: epath.PathLike, index: int) -> epath.Path | None:
    """The stage folder whose weights a stage starts from; None = random weights.

    Raises:
      UserError: `init` holds no finished training.
    """
    if index:
        return stage_folder(workdir, index - 1, list(experiment.stages)[index - 1])
    if not experiment.init:
        return None
    if not (epath.Path(experiment.init) / "config.json").exists():
        raise UserError(
            f"config.init: {experiment.init} is no workdir of lwm.train; give one, or '' for random weights"
        )
    names = list(read_config(experiment.init)["stages"])
    last = latest_stage(experiment.init, names)
    if last is None:
        raise UserError(f"config.init: {experiment.init} has no checkpoint yet; train it first, or give ''")
    return stage_folder(experiment.init, names.index(last), last)


def check_init(plan: Plan, experiment: Experiment, source: epath.Path) -> None:
    """Checks that all parameters of another run have their place in the model.

    Raises:
      UserError: one has no place, or another shape; or no checkpoint is whole.
    """
    wanted = _flat(plan.state.params)
    for name, leaf in _flat(saved_params(source, whole_step(source))).items():
        if name not in wanted:
            raise UserError(
                f"config.init: {experiment.init} has {name}, this model does not; change config.model"
            )
        if leaf.shape != wanted[name].shape:
            raise UserError(
                f"config.init: {experiment.init} has {name} of shape {leaf.shape}, this model one of "
                f"{wanted[name].shape}; change config.model"
            )


def _grown(plan: Plan, source: epath.Path, step: int, key: jax.Array) -> Any:
    """Saved parameters on the shardings of the plan; only the ones that were not saved are made."""
    wanted = _flat(plan.state.params)
    shapes = jax.tree.map_with_path(lambda path, _: wanted[_name(path)], saved_params(source, step))
    found = _flat(restore_params(source, step, shapes))
    missing = {name: leaf.sharding for name, leaf in wanted.items() if name not in found}
    if missing:

        def fresh(key: jax.Array) -> dict[str, jax.Array]:
            batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), plan.batch)
            return {
                name: leaf for name, leaf in _flat(plan.model.init(key, batch)).items() if name in missing
            }

        found |= jax.jit(fresh, out_shardings=missing)(key)
    return jax.tree.map_with_path(lambda path, _: found[_name(path)], plan.state.params)


def _flat(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
