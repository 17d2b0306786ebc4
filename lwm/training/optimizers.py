"""Learning-rate schedules and AdamW, by optax."""

from collections.abc import Callable, Collection

import jax
import optax

Schedule = Callable[[jax.Array], jax.Array]

_NOT_DECAYED = ("norm", "bias", "codebook")


def make_schedule(
    *,
    learning_rate: float,
    steps: int,
    end_learning_rate: float = 0.0,
    warmup_steps: int = 0,
    schedule: str = "constant",
) -> Schedule:
    """Learning rate as a function of the number of finished steps.

    A linear warm-up takes `warmup_steps` steps, the first at learning_rate / warmup_steps, the last at
    learning_rate; then "constant" stays, "cosine" and "linear" reach `end_learning_rate` after `steps`.

    Raises:
      ValueError: an unknown schedule.
    """
    rest = max(steps - warmup_steps, 1)
    if schedule == "constant":
        after = optax.constant_schedule(learning_rate)
    elif schedule == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, rest, alpha=end_learning_rate / learning_rate)
    elif schedule == "linear":
        after = optax.linear_schedule(learning_rate, end_learning_rate, rest)
    else:
        raise ValueError(f"schedule: {schedule!r} is not one of constant, cosine, linear")
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, max(warmup_steps - 1, 1))
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
    *,
    learning_rate: float,
    steps: int,
    end_learning_rate: float = 0.0,
    warmup_steps: int = 0,
    schedule: str = "constant",
    b1: float = 0.9,
    b2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    clip: float = 1.0,
) -> optax.GradientTransformation:
    """Clipping by global norm (0 = none), then AdamW on the schedule of `make_schedule`.

    Weights decay in every parameter of two or more dimensions that is no norm, bias or codebook.
    """
    rate = make_schedule(
        learning_rate=learning_rate,
        steps=steps,
        end_learning_rate=end_learning_rate,
        warmup_steps=warmup_steps,
        schedule=schedule,
    )
    adamw = optax.adamw(rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(clip), adamw) if clip else adamw


def sparing(optimizer: optax.GradientTransformation, parts: Collection[str]) -> optax.GradientTransformation:
    """The optimizer for parameters {part: …} of which some parts stay as they are.

    These neither decay nor count in the norm that is clipped, and no moments are kept for them.
    """

    def labels(params):
        return {
            part: jax.tree.map(lambda _, part=part: "spared" if part in parts else "trained", own)
            for part, own in params.items()
        }

    return optax.partition({"trained": optimizer, "spared": optax.set_to_zero()}, labels)


def decayed(params):
    """A tree of booleans: which parameters decay.

    Layers are stacked along a leading axis, so that their norms have two dimensions too: the name decides.
    """

    def one(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf.ndim >= 2 and not any(word in name for word in _NOT_DECAYED)

    return jax.tree.map_with_path(one, params)
