"""A stage: a context length with its theta, batch, schedule, mesh and mixture; and the rules it must keep.

A run is a list of stages of growing context (2402.08268, section 3.1): each begins with the weights that the
one before it left, on whatever mesh it asks for, and with an optimizer and a schedule of its own.
"""

import dataclasses
import math
import re

from lwm.data.clips import check_clips, frames_of_row
from lwm.data.interleaved_forms import FORMS
from lwm.errors import UserError
from lwm.training.schema import suggest

SCHEDULES = ("constant", "cosine", "linear")
WEIGHTINGS = ("example", "token")


@dataclasses.dataclass(frozen=True)
class Axes:
    """Sizes of the mesh axes; one of them may be -1, "all the remaining devices"."""

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    seq: int = 1


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage; `batch_tokens`, `context_length`, `mixture` for tokens or `batch_size` for images.

    With `frames`, tokens are questions about clips, for a model that looks at frames beside its text. With
    `images`, they are documents of text and pictures. With `batch_size` and `mixture`, rows are samples of
    tasks, for a model of many tasks.

    Attributes:
      name: of the stage, also of its checkpoint folder.
      steps: optimizer steps.
      learning_rate, end_learning_rate, warmup_steps, schedule: see `optimizers.make_schedule`.
      mesh: the devices of this stage.
      context_length: T; 0 = a stage of images or of tasks.
      rope_theta: base of the rotary frequencies.
      batch_tokens: tokens of one optimizer step, in rows of `context_length`.
      batch_size: images or samples of tasks of one optimizer step.
      stripe: positions in a stripe of the zigzag order over "seq" (parallel/layout.py); short ones make
        packed documents equal work for all devices. 0 = one turn, which is enough for one long document.
      mixture: weights of the sources of the data folder, of the questions about clips (odd, count, order), or
        of tasks; they need not add up to 1, 0 leaves one out.
      loss_weights: of the rows of a task in the loss; 1 for tasks that are not named.
      shuffle_labels: tasks whose targets are dealt out anew among their samples, for a control.
      at_most: so many samples of a task are learned from, the same ones in all runs; all of those not named.
      frames: of a clip that is asked about; 0 = no questions.
      shown: so many of them, at even distances, are shown; 0 = all.
      recolour: show training clips in other colours and mirrored, see `lwm.data.clip_frames`.
      questions: in a row of `context_length`, each about a clip of its own.
      images: pictures of the documents in a row, at most; 0 = no documents of text and pictures.
      forms: what becomes of the documents of a source, see `data/interleaved_forms.py`; none: "joint".
      trains: parts of the model that are trained, () = all; only for models that have such parts.
      accumulate: microbatches of one optimizer step, for batches that do not fit in memory.
      weighting, caption_dropout, swap_order: see `lwm.data.pipeline.make_batches`.
      text_weight, vision_weight: weights of the two losses; of documents, of language and of denoising.
      decoder_weight, contrast_weight: of what the decoder and the eyes of a DreamLLM learn of captions alone.
      eval_every, eval_batches: held-out batches are looked at every so many steps and at the end; 0 = never.
      checkpoint_every: steps from one checkpoint to the next; 0 = only at the end of the stage.
    """

    name: str
    steps: int
    learning_rate: float
    mesh: Axes
    context_length: int = 0
    rope_theta: float = 10_000.0
    stripe: int = 0
    batch_tokens: int = 0
    batch_size: int = 0
    end_learning_rate: float = 0.0
    warmup_steps: int = 0
    schedule: str = "constant"
    mixture: dict[str, float] = dataclasses.field(default_factory=dict)
    loss_weights: dict[str, float] = dataclasses.field(default_factory=dict)
    shuffle_labels: tuple[str, ...] = ()
    at_most: dict[str, int] = dataclasses.field(default_factory=dict)
    frames: int = 0
    shown: int = 0
    recolour: bool = False
    questions: int = 1
    images: int = 0
    forms: dict[str, str] = dataclasses.field(default_factory=dict)
    trains: tuple[str, ...] = ()
    accumulate: int = 1
    weighting: str = "example"
    text_weight: float = 0.5
    vision_weight: float = 0.5
    decoder_weight: float = 0.0
    contrast_weight: float = 0.0
    caption_dropout: float = 0.1
    swap_order: bool = True
    eval_every: int = 0
    eval_batches: int = 4
    checkpoint_every: int = 0

    @property
    def of_images(self) -> bool:
        return self.context_length == 0 and not self.mixture

    @property
    def of_tasks(self) -> bool:
        return self.context_length == 0 and bool(self.mixture)

    @property
    def of_clips(self) -> bool:
        return self.frames != 0

    @property
    def of_pages(self) -> bool:
        return self.images != 0

    @property
    def of_captions(self) -> bool:
        return self.decoder_weight > 0 or self.contrast_weight > 0

    @property
    def rows(self) -> int:
        """Rows of the global batch of one optimizer step."""
        return self.batch_tokens // self.context_length if self.context_length else self.batch_size

    def row_frames(self, ring: int) -> int:
        """Frames or pictures beside a row of text, filled up to a multiple of the devices on "seq"."""
        if self.of_pages:
            return -(-self.images // ring) * ring
        return frames_of_row(self.mixture, self.frames, self.shown, self.questions, ring)

    @property
    def unit(self) -> str:
        """What the batch is counted in."""
        if self.of_tasks:
            return "rows"
        return "images" if self.of_images else "tokens"

    @property
    def batch_units(self) -> int:
        """Images, rows or tokens of one optimizer step."""
        return self.batch_tokens if self.context_length else self.batch_size


def check_stage(stage: Stage) -> None:
    """Checks what needs neither devices nor data.

    Raises:
      UserError: naming the field, its value and the fix.
    """
    if not re.fullmatch(r"\w[\w.-]*", stage.name):
        raise UserError(
            f"config.stages.{stage.name}: {stage.name!r} names a folder; use letters, digits, _ and -"
        )
    least = dict(
        steps=1,
        accumulate=1,
        eval_batches=1,
        eval_every=0,
        checkpoint_every=0,
        warmup_steps=0,
        context_length=0,
        batch_tokens=0,
        batch_size=0,
        text_weight=0,
        vision_weight=0,
        end_learning_rate=0,
        images=0,
        decoder_weight=0,
        contrast_weight=0,
    )
    for field, bound in least.items():
        if not getattr(stage, field) >= bound:
            raise _error(stage, field, "is too small", f"use {bound} or more")
    for field in ("learning_rate", "rope_theta"):
        if not 0 < getattr(stage, field) < math.inf:
            raise _error(stage, field, "is not positive", "use a number above 0")
    for field, choices in (("schedule", SCHEDULES), ("weighting", WEIGHTINGS)):
        if getattr(stage, field) not in choices:
            raise _error(stage, field, "is not known", suggest(getattr(stage, field), choices))
    if stage.warmup_steps > stage.steps:
        raise _error(
            stage, "warmup_steps", f"is more than steps = {stage.steps}", f"use at most {stage.steps}"
        )
    if not 0 <= stage.caption_dropout <= 1:
        raise _error(stage, "caption_dropout", "is no probability", "use 0 to 1")
    (_check_tokens if stage.context_length else _check_rows)(stage)
    _check_pages(stage)
    _check_clips(stage)


def check_growth(stages: list[Stage]) -> None:
    """Checks that neither the context nor theta shrinks from one stage to the next.

    Raises:
      UserError: naming the later stage.
    """
    for before, after in zip(stages, stages[1:], strict=False):
        for field in ("context_length", "rope_theta"):
            least = getattr(before, field)
            if getattr(after, field) < least:
                raise _error(
                    after,
                    field,
                    f"is less than {least:g} of stage {before.name}",
                    "stages must not shrink: raise it or change their order",
                )


def choose_stage(stages: dict[str, Stage], name: str) -> Stage:
    """The stage of that name; "" means the only one.

    Raises:
      UserError: there is no such stage, or there are several to choose from.
    """
    if not name and len(stages) == 1:
        return next(iter(stages.values()))
    if name not in stages:
        raise UserError(f"stage: {name!r} is no stage; {suggest(name, stages)}")
    return stages[name]


def parse_axes(stage: Stage, text: str) -> Stage:
    """The stage on another mesh, "data=1,fsdp=4"; axes that are not named have one device.

    Raises:
      UserError: an unknown axis or a size that is no whole number.
    """
    axes = {}
    for item in text.split(","):
        axis, _, size = item.partition("=")
        known = [field.name for field in dataclasses.fields(Axes)]
        if axis not in known or axis in axes or not re.fullmatch(r"-?\d+", size):
            raise UserError(f"mesh: {item!r} is no size of an axis; write {'=1,'.join(known)}=1")
        axes[axis] = int(size)
    return dataclasses.replace(stage, mesh=Axes(**axes))


def resolve_mesh(stage: Stage, devices: int) -> dict[str, int]:
    """Sizes of the four axes on so many devices, with -1 filled in; checks that they divide the batch.

    Raises:
      UserError: the axes do not fit the devices, the rows of the batch or the length of the context.
    """
    sizes = dataclasses.asdict(stage.mesh)
    free = [axis for axis, size in sizes.items() if size == -1]
    for axis, size in sizes.items():
        if size < 1 and size != -1 or len(free) > 1 and size == -1:
            fix = "use 1 or more, or -1 on one axis for the remaining devices"
            raise _error(stage, f"mesh.{axis}", "is no size here", fix, value=size)
    used = math.prod(size for size in sizes.values() if size != -1)
    if free and devices % used == 0:
        sizes[free[0]] = devices // used
    if math.prod(sizes.values()) != devices:
        fix = f"make the product of the axes {devices}, or run on {used} (on a CPU: --cpu_devices={used})"
        raise _error(stage, "mesh", f"does not fit {devices} devices", fix, value=_shape(sizes))
    if stage.of_tasks:
        # Rows of each kind are filled up to what the devices share.
        if sizes["seq"] > 1:
            raise _error(
                stage, "mesh.seq", "cuts positions, and tasks are cut by rows", "use 1", sizes["seq"]
            )
        return sizes
    ways = sizes["data"] * sizes["fsdp"] * stage.accumulate
    if stage.rows % ways:
        field = "batch_size" if stage.of_images else "batch_tokens"
        unit = 1 if stage.of_images else stage.context_length
        why = f"is {stage.rows} rows, not a multiple of {ways} (data x fsdp x accumulate)"
        raise _error(stage, field, why, f"use a multiple of {ways * unit}")
    n, unit = sizes["seq"], 2 * max(stage.stripe, 1)
    if not stage.of_images and n > 1 and stage.context_length % (unit * n):
        pieces = f"stripes of {stage.stripe}" if stage.stripe else "chunks"
        why = f"is not a multiple of {unit * n} (two {pieces} for each of seq = {n} devices)"
        raise _error(stage, "context_length", why, "change it or mesh.seq")
    return sizes


def _check_rows(stage: Stage) -> None:
    for field, empty in (("batch_tokens", 0), ("frames", 0), ("images", 0)):
        if getattr(stage, field) != empty:
            raise _error(
                stage, field, "does not go with context_length = 0", "leave it out, or give a length"
            )
    if stage.batch_size < 1:
        what = "tasks" if stage.of_tasks else "images"
        raise _error(
            stage, "batch_size", f"leaves a stage of {what} (context_length = 0) empty", "use 1 or more"
        )
    if stage.of_tasks:
        _check_mixture(stage, "task")
        for task, weight in stage.loss_weights.items():
            if not 0 <= weight < math.inf:
                raise _error(stage, f"loss_weights.{task}", "is no weight", "use 0 or more", value=weight)
        for task, count in stage.at_most.items():
            if count < 1:
                raise _error(stage, f"at_most.{task}", "leaves no sample", "use 1 or more", value=count)
    else:
        _check_no_tasks(stage)


def _check_tokens(stage: Stage) -> None:
    T = stage.context_length
    if stage.batch_size:
        raise _error(stage, "batch_size", f"counts images, but context_length is {T}", "use batch_tokens")
    if stage.batch_tokens < T or stage.batch_tokens % T:
        near = max(round(stage.batch_tokens / T), 1) * T
        raise _error(
            stage, "batch_tokens", f"is not a multiple of context_length = {T}", f"use for example {near}"
        )
    if not (stage.text_weight or stage.vision_weight or stage.of_captions):
        raise _error(
            stage, "text_weight", "and vision_weight leave nothing to learn", "make one of them positive"
        )
    if stage.stripe < 0:
        raise _error(stage, "stripe", "is no number of positions", "use for example 512, or 0 for one turn")
    _check_mixture(stage, "source")
    _check_no_tasks(stage)


def _check_mixture(stage: Stage, what: str) -> None:
    if not any(stage.mixture.values()):
        example = "{'text': 1.0}" if what == "source" else "{'captions': 1.0}"
        raise _error(stage, "mixture", f"names no {what}", f"write for example {example}")
    for name, weight in stage.mixture.items():
        if not 0 <= weight < math.inf:
            raise _error(stage, f"mixture.{name}", "is no weight", "use 0 or more", value=weight)


def _check_no_tasks(stage: Stage) -> None:
    for field in ("loss_weights", "shuffle_labels", "at_most"):
        if getattr(stage, field):
            raise _error(stage, field, "is about tasks, and this stage has none", "leave it out")


def _check_clips(stage: Stage) -> None:
    if stage.of_clips:
        try:
            check_clips(stage.mixture, stage.frames, stage.shown, stage.questions)
        except UserError as error:
            raise UserError(f"config.stages.{stage.name}.{error}") from error
        if stage.row_frames(1) > stage.context_length:
            why = f"does not hold the text about {stage.row_frames(1)} frames, a token for each and more"
            raise _error(stage, "context_length", why, "raise it, or show fewer frames")
        return
    for field, empty in (("shown", 0), ("recolour", False), ("questions", 1)):
        if getattr(stage, field) != empty:
            raise _error(stage, field, "is about clips, but frames is 0", "give frames, or leave it out")


def _check_pages(stage: Stage) -> None:
    if stage.of_pages and stage.of_clips:
        raise _error(
            stage, "images", "are of documents, but frames asks about clips", "leave one of them out"
        )
    if stage.forms and not stage.of_pages:
        raise _error(stage, "forms", "are of documents with pictures, but images is 0", "leave it out")
    for source, form in stage.forms.items():
        if source not in stage.mixture:
            fix = suggest(source, stage.mixture)
            raise _error(stage, f"forms.{source}", "is of no source in the mixture", fix, value=form)
        if form not in FORMS:
            raise _error(stage, f"forms.{source}", "is no form", suggest(form, FORMS), value=form)


def _shape(sizes: dict[str, int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in sizes.items())


def _error(stage: Stage, field: str, why: str, fix: str, value=None) -> UserError:
    value = getattr(stage, field) if value is None else value
    return UserError(f"config.stages.{stage.name}.{field}: {value!r} {why}; {fix}")
