"""The batches of a stage of tasks: rows of several kinds, for a model with a command token for each task."""

from typing import Any

import jax
from etils import epath

from lwm.errors import UserError
from lwm.limits import suggest
from lwm.models.multimodel_sizes import row_shapes
from lwm.training.stages import Stage


def task_shapes(stage: Stage, config: Any, ways: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """{kind: {name: shape}} of the global batch; each kind has a multiple of `ways` x accumulate rows.

    Raises:
      UserError: a task gets no row, or the weights of the mixture are none.
    """
    from lwm.data.task_mixture import composition, rows_by_kind

    try:
        rows = composition(stage.mixture, stage.batch_size)
    except UserError as error:
        raise UserError(f"config.stages.{stage.name}.{error}") from error
    kinds = dict(zip(config.tasks, config.kinds, strict=True))
    layout = rows_by_kind(rows, kinds, config.tasks, ways * stage.accumulate)
    shapes = row_shapes(config)
    return {
        kind: {
            name: jax.ShapeDtypeStruct((len(tasks), *shape), dtype)
            for name, (shape, dtype) in shapes[kind].items()
        }
        for kind, tasks in layout.items()
    }


def check_task_data(stage: Stage, manifest: dict, config: Any) -> None:
    """Checks that the data folder and the model mean the same by what they share.

    Args:
      manifest: tasks.json, see `lwm.data.task_records.load_tasks`.

    Raises:
      UserError: naming the field, its value and the fix.
    """
    kinds = dict(zip(config.tasks, config.kinds, strict=True))
    for task, weight in stage.mixture.items():
        if not weight:
            continue
        if task not in manifest["tasks"]:
            raise UserError(
                f"config.stages.{stage.name}.mixture.{task}: the data folder has no task of that name; "
                f"{suggest(task, manifest['tasks'])}"
            )
        if manifest["tasks"][task]["kind"] != kinds[task]:
            raise UserError(
                f"config.model.kinds: {kinds[task]!r} for task {task}, but in the data folder it is of kind "
                f"{manifest['tasks'][task]['kind']!r}; change it"
            )
        if stage.eval_every and not manifest["tasks"][task]["heldout"]:
            raise UserError(
                f"config.stages.{stage.name}.mixture.{task}: no sample in split 'heldout'; leave it out, or "
                "set eval_every to 0"
            )
    held = {"vocab_size": manifest["vocab_size"], "classes": len(manifest["classes"])}
    same = {"sample_rate": manifest["rate"], "eos": manifest["eos"]}
    for field, needed in (held | same).items():
        value = getattr(config, field)
        if value != needed if field in same else value < needed:
            fix = f"use {needed}{'' if field in same else ' or more'}"
            raise UserError(f"config.model.{field}: {value}, but the data folder has {needed}; {fix}")


def open_task_batches(
    stage: Stage, data_dir: epath.PathLike, *, config: Any, ways: int, **common: Any
) -> Any:
    """See `inputs.open_batches`, whose arguments `common` are."""
    from lwm.data.task_batches import make_task_batches

    sizes = ("tasks", "resolution", "samples", "source_length", "target_length")
    return make_task_batches(
        data_dir,
        mixture=stage.mixture,
        loss_weights=stage.loss_weights,
        shuffle_labels=stage.shuffle_labels,
        at_most=stage.at_most,
        multiple=ways * stage.accumulate,
        **{name: getattr(config, name) for name in sizes},
        **common,
    )
