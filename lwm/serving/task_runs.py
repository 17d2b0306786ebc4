"""From a workdir to a MultiModel that can be asked: with its data folder, once all of it goes together.

What `lwm.evaluate` begins with, and whoever else asks such a model. Another folder than that which it learned
from may be given; it must mean the same by tasks, labels and ids, or answers would be of something else.
"""

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath

from lwm.data.task_records import load_task_tokenizer, load_tasks
from lwm.data.tokenizers import Tokenizer, load_tokenizer
from lwm.errors import UserError
from lwm.limits import suggest
from lwm.models.multimodel import MultiModel
from lwm.systems import build_model
from lwm.training.checkpoints import load_params
from lwm.training.task_inputs import misfits


class TaskRun(NamedTuple):
    """A MultiModel with all that samples of its tasks need.

    config: of its run; block: of its stage. data: a folder of tasks; manifest: its tasks.json; tokenizer: its
    own. tasks: those to ask about.
    """

    model: MultiModel
    params: dict
    config: dict[str, Any]
    block: dict[str, Any]
    data: str
    manifest: dict
    tokenizer: Tokenizer
    tasks: tuple[str, ...]

    def label(self, number: int) -> str:
        """The name of a class; a model may have more of them than samples do."""
        classes = self.manifest["classes"]
        return classes[number] if number < len(classes) else f"class {number}"


def open_tasks(
    workdir: epath.PathLike, *, data: str = "", stage: str | None = None, tasks: Sequence[str] = ()
) -> TaskRun:
    """The newest checkpoint of a stage (None: the last one), with a folder of tasks (of the run if "").

    tasks: () = all that the stage learned from, but for those whose labels were shuffled. The folder may hold
    out no sample of them.

    Raises:
      UserError: no checkpoint of a MultiModel, a task that it did not learn, no data folder, or one that does
        not go with it.
    """
    config, block, params = load_params(workdir, stage)
    if (name := config["model"].get("name")) != "multimodel":
        raise UserError(
            f"workdir: {workdir} holds another model, {name}; give a run of a MultiModel (config.model.name)"
        )
    model, own = build_model(config["model"], block), config["data"]["path"]
    learned = [task for task, weight in block["mixture"].items() if weight]
    for task in tasks:
        if task not in learned:
            raise UserError(f"tasks: {workdir} did not learn {task!r}; {suggest(task, learned)}")
    tasks = tuple(dict.fromkeys(tasks or (task for task in learned if task not in block["shuffle_labels"])))
    if not (data := data or own):
        raise UserError(f"data: {workdir} names no data folder; give one by --data")
    manifest = load_tasks(data)
    tokenizer = load_task_tokenizer(data, manifest)
    if why := _misfit(tasks, manifest, model.config) or _drift(own, manifest, tokenizer):
        fix = "give the folder that it learned from by --data"
        raise UserError(f"data: {data} does not go with {workdir}: {why}; {fix}")
    return TaskRun(model, params, config, block, data, manifest, tokenizer, tasks)


def _misfit(tasks: Sequence[str], manifest: dict, config: Any) -> str:
    """The first of what the folder and the model mean differently, "" if there is none."""
    return next((f"{field}: {what}" for field, what, _ in misfits(tasks, manifest, config)), "")


def _drift(own: str, manifest: dict, tokenizer: Tokenizer) -> str:
    """How labels or ids differ from those of the run's own folder, "" if they do not or it is gone."""
    with contextlib.suppress(UserError):
        pairs = itertools.zip_longest(manifest["classes"], load_tasks(own)["classes"])
        for at, (here, there) in enumerate(pairs):
            if here != there:
                return f"class {at} is {here!r}, and {there!r} in {own}, which it learned from"
        if load_tokenizer(f"{own}/tokenizer.model").files != tokenizer.files:
            return f"its tokenizer.model is another one than in {own}, which it learned from"
    return ""
