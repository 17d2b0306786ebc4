"""The loss of a batch of rows of several tasks, and what is reported of each task."""

import jax
import jax.numpy as jnp

from lwm.models.multimodel_network import Outputs, decoded_kinds
from lwm.models.multimodel_rows import join
from lwm.models.multimodel_sizes import MultiModelConfig

Metrics = dict[str, jax.Array]


def total_loss(config: MultiModelConfig, outputs: Outputs, batch: dict) -> tuple[jax.Array, Metrics]:
    """L = Σ_b w_b ℓ_b / Σ_b w_b + balance_weight · Σ over mixtures (CV² of importance + CV² of load).

    ℓ_b is the mean cross-entropy of a row's targets against one-hot targets of which `label_smoothing` is
    spread over all ids (1512.00567, section 7). The sum of weights is "denominator", so that microbatches add
    up to the whole, but for the balance, which each of them has to keep for itself.

    Returns:
        The loss and float32 scalars: "denominator", "main" (the first summand), for each task of the batch
        "loss_<task>" (nats a target, not smoothed), "accuracy_<task>" (share of targets that are likeliest)
        and "count_<task>" (targets), and with experts "importance_cv2", "load_cv2", "dropped" (share of
        choices without a place).
    """
    rows = []  # (task_B, weights_B, targets_BT, logits_BTV) of labels and of words
    if outputs.labels_BV is not None:
        own = batch["classify"]
        labelled = jnp.ones((len(own["labels"]), 1), bool)
        rows.append((own, own["labels"][:, None], labelled, outputs.labels_BV[:, None]))
    if outputs.words_BTV is not None:
        kinds = decoded_kinds(batch)
        own = {name: join([batch[kind][name] for kind in kinds]) for name in ("task", "weights", "targets")}
        rows.append((own, own["targets"], own["targets"] > 0, outputs.words_BTV))
    total = weight = 0.0
    sums = jnp.zeros((3, len(config.tasks)), jnp.float32)
    for own, targets_BT, counts_BT, logits_BTV in rows:
        weights_B = own["weights"]
        nll_BT, smooth_BT, right_BT = _losses(logits_BTV, targets_BT, config.label_smoothing)
        length_B = jnp.maximum(jnp.sum(counts_BT, axis=1), 1)
        total += jnp.sum(weights_B * jnp.sum(smooth_BT * counts_BT, axis=1) / length_B)
        weight += jnp.sum(weights_B)
        counts_BT &= weights_B[:, None] > 0
        of_task_BE = jax.nn.one_hot(own["task"], len(config.tasks))
        found = [jnp.sum(x_BT * counts_BT, axis=1) for x_BT in (nll_BT, right_BT, jnp.ones_like(nll_BT))]
        sums += jnp.stack(found) @ of_task_BE
    main = total / jnp.maximum(weight, 1e-9)
    metrics = {"denominator": jnp.asarray(weight, jnp.float32), "main": main}
    for index, (task, kind) in enumerate(zip(config.tasks, config.kinds, strict=True)):
        if kind in batch:
            nll, right, count = sums[:, index]
            metrics |= {
                f"loss_{task}": nll / jnp.maximum(count, 1),
                f"accuracy_{task}": right / jnp.maximum(count, 1),
                f"count_{task}": count,
            }
    balance, traffic = _traffic(outputs)
    return main + config.balance_weight * balance, metrics | traffic


def _losses(logits_BTV, targets_BT, smoothing: float):
    """(nll_BT, smoothed cross-entropy_BT, whether the target is the likeliest_BT), float32."""
    logs_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    nll_BT = -jnp.take_along_axis(logs_BTV, targets_BT[..., None], axis=-1)[..., 0]
    smooth_BT = (1 - smoothing) * nll_BT - smoothing * jnp.mean(logs_BTV, axis=-1)
    right_BT = (jnp.argmax(logits_BTV, axis=-1) == targets_BT).astype(jnp.float32)
    return nll_BT, smooth_BT, right_BT


def _traffic(outputs: Outputs) -> tuple[jax.Array | float, Metrics]:
    """The loss of balance, and the means of what is reported."""
    if not outputs.traffic:
        return 0.0, {}
    n = len(outputs.traffic)
    importance, load = (sum(getattr(own, name) for own in outputs.traffic) for name in ("importance", "load"))
    sent = sum(own.sent for own in outputs.traffic)
    dropped = sum(own.dropped for own in outputs.traffic) / jnp.maximum(sent, 1)
    return importance + load, {"importance_cv2": importance / n, "load_cv2": load / n, "dropped": dropped}
