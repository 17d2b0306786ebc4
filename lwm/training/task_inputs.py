"""The batches of a stage of tasks: rows of several kinds, for a model with a command token for each task."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

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


class Misfit(NamedTuple):
    """What a data folder and a model mean differently.

    field: of the config, "model.<field>", or of its stage, "mixture.<task>". what: is wrong with it.
    """

    field: str
    what: str
    fix: str


def misfits(tasks: Iterable[str], manifest: dict, config: Any) -> Iterator[Misfit]:
    """Yields what the data folder and the model mean differently, of these tasks and of all that they share.

    Args:
      manifest: tasks.json, see `lwm.data.task_records.load_tasks`.
    """
    kinds = dict(zip(config.tasks, config.kinds, strict=True))
    for task in tasks:
        if task not in manifest["tasks"]:
            fix = suggest(task, manifest["tasks"])
            yield Misfit(f"mixture.{task}", "the data folder has no task of that name", fix)
        elif (kind := manifest["tasks"][task]["kind"]) != kinds[task]:
            what = f"{kinds[task]!r} for task {task}, but in the data folder it is of kind {kind!r}"
            yield Misfit("model.kinds", what, "change it")
    held = {"vocab_size": manifest["vocab_size"], "classes": len(manifest["classes"])}
    same = {"sample_rate": manifest["rate"], "eos": manifest["eos"]}
    for field, needed in (held | same).items():
        value = getattr(config, field)
        if value != needed if field in same else value < needed:
            fix = f"use {needed}{'' if field in same else ' or more'}"
            yield Misfit(f"model.{field}", f"{value}, but the data folder has {needed}", fix)


def check_task_data(stage: Stage, manifest: dict, config: Any) -> None:
    """Checks that the data folder and the model mean the same by what they share.

    Args:
      manifest: tasks.json, see `lwm.data.task_records.load_tasks`.

    Raises:
      UserError: naming the field, its value and the fix.
    """
    tasks = [task for task, weight in stage.mixture.items() if weight]
    for field, what, fix in misfits(tasks, manifest, config):
        where = "config" if field.startswith("model.") else f"config.stages.{stage.name}"
        raise UserError(f"{where}.{field}: {what}; {fix}")
    for task in tasks:
        if stage.eval_every and not manifest["tasks"][task]["heldout"]:
            raise UserError(
                f"config.stages.{stage.name}.mixture.{task}: no sample in split 'heldout'; leave it out, or "
                "set eval_every to 0"
            )


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
