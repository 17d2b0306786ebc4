"""The rules that the fields of one stage keep together, see `lwm.limits`: lines "field: value why; fix".

They need neither devices nor data nor a model; the limits of each field alone are in its type.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from lwm.data.clips import check_clips
from lwm.errors import UserError
from lwm.limits import Rules, suggest


def axes(mesh: Any) -> Iterator[str]:
    """The axes of a mesh: one of them at most takes the remaining devices."""
    sizes = {field.name: getattr(mesh, field.name) for field in dataclasses.fields(mesh)}
    free = [axis for axis, size in sizes.items() if size == -1]
    for axis, size in sizes.items():
        if size < -1 or size == 0 or axis in free[1:]:
            fix = "use 1 or more, or -1 on one axis for the remaining devices"
            yield f"{axis}: {size} is no size here; {fix}"


def uneven(stage: Any, sizes: dict[str, int]) -> Iterator[str]:
    """Rows and positions that axes of these sizes cannot share evenly."""
    if stage.of_tasks:
        # Rows of each kind are filled up to what the devices share.
        if sizes["seq"] > 1:
            yield f"mesh.seq: {sizes['seq']} cuts positions, and tasks are cut by rows; use 1"
        return
    ways = sizes["data"] * sizes["fsdp"] * stage.accumulate
    if stage.rows % ways:
        field = "batch_size" if stage.of_images else "batch_tokens"
        unit = 1 if stage.of_images else stage.context_length
        why = f"is {stage.rows} rows, not a multiple of {ways} (data x fsdp x accumulate)"
        yield _line(stage, field, why, f"use a multiple of {ways * unit}")
    n, unit = sizes["seq"], 2 * max(stage.stripe, 1)
    if not stage.of_images and n > 1 and stage.context_length % (unit * n):
        pieces = f"stripes of {stage.stripe}" if stage.stripe else "chunks"
        why = f"is not a multiple of {unit * n} (two {pieces} for each of seq = {n} devices)"
        yield _line(stage, "context_length", why, "change it or mesh.seq")


def _folder(stage: Any) -> Iterator[str]:
    if not re.fullmatch(r"\w[\w.-]{0,99}", stage.name):
        yield f"name: {stage.name!r} names a folder; use letters, digits, _ and -, at most 100"


def _devices(stage: Any) -> Iterator[str]:
    """What can be said of a mesh before the devices are counted: an axis of -1 has at least one."""
    sizes = {field.name: getattr(stage.mesh, field.name) for field in dataclasses.fields(stage.mesh)}
    whole = not stage.context_length or stage.batch_tokens % stage.context_length == 0
    if whole and not any(axes(stage.mesh)):
        yield from uneven(stage, {axis: abs(size) for axis, size in sizes.items()})


def _rows(stage: Any) -> Iterator[str]:
    if stage.context_length:
        return
    for field in ("batch_tokens", "frames", "images"):
        if getattr(stage, field):
            yield _line(stage, field, "does not go with context_length = 0", "leave it out, or give a length")
    if stage.batch_size < 1:
        what = "tasks" if stage.of_tasks else "images"
        yield _line(
            stage, "batch_size", f"leaves a stage of {what} (context_length = 0) empty", "use 1 or more"
        )


def _tokens(stage: Any) -> Iterator[str]:
    T = stage.context_length
    if not T:
        return
    if stage.batch_size:
        yield _line(stage, "batch_size", f"counts images, but context_length is {T}", "use batch_tokens")
    if stage.batch_tokens < T or stage.batch_tokens % T:
        near = max(round(stage.batch_tokens / T), 1) * T
        yield _line(
            stage, "batch_tokens", f"is not a multiple of context_length = {T}", f"use for example {near}"
        )


def _learns(stage: Any) -> Iterator[str]:
    if stage.context_length and not (stage.text_weight or stage.vision_weight or stage.of_captions):
        yield _line(
            stage, "text_weight", "and vision_weight leave nothing to learn", "make one of them positive"
        )


def _mixture(stage: Any) -> Iterator[str]:
    if (stage.context_length or stage.mixture) and not any(stage.mixture.values()):
        what, example = ("source", "text") if stage.context_length else ("task", "captions")
        yield _line(stage, "mixture", f"names no {what}", f"write for example {{{example!r}: 1.0}}")


def _tasks(stage: Any) -> Iterator[str]:
    for field in ("loss_weights", "shuffle_labels", "at_most"):
        if getattr(stage, field) and not stage.of_tasks:
            yield _line(stage, field, "is about tasks, and this stage has none", "leave it out")


def _task_names(stage: Any) -> Iterator[str]:
    for field in ("loss_weights", "at_most") if stage.of_tasks else ():
        for task, value in getattr(stage, field).items():
            if task not in stage.mixture:
                fix = suggest(task, stage.mixture)
                yield f"{field}.{task}: {value!r} is of no task in the mixture; {fix}"
    for task in stage.shuffle_labels if stage.of_tasks else ():
        if task not in stage.mixture:
            yield f"shuffle_labels: {task!r} is no task in the mixture; {suggest(task, stage.mixture)}"


def _task_weights(stage: Any) -> Iterator[str]:
    # A row of weight 0 is filler: nothing is learned from it, and its losses read 0.
    for task, weight in stage.loss_weights.items() if stage.of_tasks else ():
        if not weight and task in stage.mixture:
            yield f"loss_weights.{task}: {weight!r} learns nothing; leave the task out of the mixture"


def _clips(stage: Any) -> Iterator[str]:
    if stage.of_pages or not (stage.of_clips and stage.context_length and any(stage.mixture.values())):
        return
    try:
        check_clips(stage.mixture, stage.frames, stage.shown, stage.questions)
    except UserError as error:
        yield str(error)
        return
    if stage.row_frames(1) > stage.context_length:
        why = f"does not hold the text about {stage.row_frames(1)} frames, a token for each and more"
        yield _line(stage, "context_length", why, "raise it, or show fewer frames")


def _no_clips(stage: Any) -> Iterator[str]:
    for field, empty in (("shown", 0), ("recolour", False), ("questions", 1)):
        if getattr(stage, field) != empty and not stage.of_clips:
            yield _line(stage, field, "is about clips, but frames is 0", "give frames, or leave it out")


def _pages(stage: Any) -> Iterator[str]:
    if stage.of_pages and stage.of_clips:
        why = "are of documents, but frames asks about clips"
        yield _line(stage, "images", why, "leave one of them out")
    for field, verb in (("forms", "are"), ("shift", "is"), ("mirror", "is")):
        if getattr(stage, field) and not stage.of_pages:
            yield _line(stage, field, f"{verb} of documents with pictures, but images is 0", "leave it out")


def _forms(stage: Any) -> Iterator[str]:
    for source, form in stage.forms.items():
        if source not in stage.mixture:
            fix = suggest(source, stage.mixture)
            yield f"forms.{source}: {form!r} is of no source in the mixture; {fix}"


def _line(stage: Any, field: str, why: str, fix: str) -> str:
    return f"{field}: {getattr(stage, field)!r} {why}; {fix}"


RULES: Rules = (
    *(_folder, _devices, _rows, _tokens, _learns),
    *(_mixture, _tasks, _task_names, _task_weights, _clips, _no_clips, _pages, _forms),
)
