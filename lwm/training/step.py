"""One optimizer step of any model: gradients (in microbatches if asked), AdamW, maintenance, metrics."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lwm.training import metrics as sums
from lwm.training.optimizers import Schedule
from lwm.training.state import TrainState, init_state, lay_out

__all__ = ["init_state", "make_eval_step", "make_train_step"]

Metrics = dict[str, jax.Array]


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    accumulate: int = 1,
    schedule: Schedule | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
    """Compiles to `step(state, batch) -> (state, metrics)`; the state given to it is donated.

    State and batch come laid out by `state.init_state` and `parallel.sharding.batch_shardings`; gradients,
    parameters and moments are pinned to the same rules table on the mesh in context (`jax.set_mesh`).

    The key of the model is folded from the state's key and step. With `accumulate` = k, microbatch i holds
    rows i, i + k, i + 2k, …, so that every device cuts up its own rows; losses, gradients and metrics are
    weighted by the model's "denominator", which makes the result that of the whole batch at once.

    A step whose loss or gradient is not finite changes neither parameters nor moments; it counts all the
    same, in the state and in the schedule, and the next step goes on with the next batch.

    Args:
      model: has `loss(params, batch, key)` and PARTITION_RULES; and, if it needs maintenance that no gradient
        does, `refresh(params, batch, key) -> params`, run after every `refresh_every`-th step; and, if its
        loss is random in a way that held-out losses should not be, `evaluate(params, batch)`.
      optimizer: see `optimizers.make_optimizer`.
      accumulate: microbatches; the rows of the batch are a multiple of it.
      schedule: to report "learning_rate" among the metrics.

    Returns:
      The jitted step. Its metrics are float32 scalars on every device: "loss", "gradient_norm" (before
      clipping), "learning_rate", "skipped" (1 if the loss or the gradient was not finite, else 0), and what
      the model reports.
    """

    def update(gradients: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def pass_over(gradients: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        return params, jax.tree.map(_count, opt_state, is_leaf=_counts_steps)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, Metrics]:
        rules = model.PARTITION_RULES
        key = jax.random.fold_in(state.key, state.step)
        metrics, gradients = _gradients(model, state.params, batch, key, accumulate)
        gradients = lay_out(rules, gradients)
        metrics["gradient_norm"] = optax.global_norm(gradients)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
        with jax.named_scope("optimizer"):
            params, opt_state = jax.lax.cond(
                finite, update, pass_over, gradients, state.opt_state, state.params
            )
        if schedule is not None:
            metrics["learning_rate"] = jnp.asarray(schedule(state.step), jnp.float32)
        params = _maintain(model, params, batch, key, state.step + 1, finite)
        params, opt_state = lay_out(rules, params), lay_out(rules, opt_state)
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(model: Any) -> Callable[[Any, dict, jax.Array], Metrics]:
    """Compiles to `evaluate(params, batch, key) -> metrics`: the loss and what the model reports."""

    def evaluate(params: Any, batch: dict, key: jax.Array) -> Metrics:
        own = hasattr(model, "evaluate")
        loss, metrics = model.evaluate(params, batch) if own else model.loss(params, batch, key)
        return metrics | {"loss": loss}

    return jax.jit(evaluate)


def _gradients(model: Any, params: Any, batch: dict, key: jax.Array, accumulate: int) -> tuple[Metrics, Any]:
    def value_and_grad(batch: dict, key: jax.Array) -> tuple[Metrics, Any]:
        (loss, metrics), gradients = jax.value_and_grad(model.loss, has_aux=True)(params, batch, key)
        return metrics | {"loss": loss}, gradients

    if accumulate == 1:
        return value_and_grad(batch, key)

    def summands(index: jax.Array, batch: dict) -> tuple[Metrics, Any]:
        metrics, gradients = value_and_grad(batch, jax.random.fold_in(key, index))
        weight = metrics["denominator"]
        return sums.weighted(metrics), jax.tree.map(lambda leaf: weight * leaf, gradients)

    def add(totals, microbatch):
        return jax.tree.map(jnp.add, totals, summands(*microbatch)), None

    microbatches = jnp.arange(accumulate), jax.tree.map(lambda array: _split(array, accumulate), batch)
    shapes = jax.eval_shape(summands, *jax.tree.map(lambda array: array[0], microbatches))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (totals, gradients), _ = jax.lax.scan(add, nothing, microbatches)
    weight = jnp.maximum(totals["denominator"], 1e-9)
    return sums.mean(totals), jax.tree.map(lambda leaf: leaf / weight, gradients)


def _split(array: jax.Array, pieces: int) -> jax.Array:
    return array.reshape(array.shape[0] // pieces, pieces, *array.shape[1:]).swapaxes(0, 1)


def _count(node: Any) -> Any:
    """The schedule counts every step."""
    return node._replace(count=node.count + 1) if _counts_steps(node) else node


def _counts_steps(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def _maintain(
    model: Any, params: Any, batch: dict, key: jax.Array, step: jax.Array, finite: jax.Array
) -> Any:
    every = getattr(model, "refresh_every", 0)
    if not every:
        return params
    refresh, due = jax.named_call(model.refresh, name="refresh"), finite & (step % every == 0)
    return jax.lax.cond(due, refresh, lambda params, batch, key: params, params, batch, key)
