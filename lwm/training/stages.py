"""A stage: a context length with its theta, batch, schedule, mesh and mixture; and the rules it must keep.

A run is a list of stages of growing context (2402.08268, section 3.1): each begins with the weights that the
one before it left, on whatever mesh it asks for, and with an optimizer and a schedule of its own.
"""

import dataclasses
import math
import re
from typing import Annotated, ClassVar

from lwm.data.clips import frames_of_row
from lwm.data.interleaved_forms import FORMS
from lwm.errors import UserError, refuse
from lwm.limits import COUNT, POSITIVE, SIZE, Limits, Rules, suggest
from lwm.training import stage_rules

SCHEDULES = ("constant", "cosine", "linear")
WEIGHTINGS = ("example", "token")
PAGE_WEIGHTS = {"text_weight": 1.0, "vision_weight": 10.0}  # of DreamLLM (2309.11499), as released


@dataclasses.dataclass(frozen=True)
class Axes:
    """Sizes of the mesh axes; one of them may be -1, "all the remaining devices"."""

    data: Annotated[int, Limits(least=-1)] = 1
    fsdp: Annotated[int, Limits(least=-1)] = 1
    tensor: Annotated[int, Limits(least=-1)] = 1
    seq: Annotated[int, Limits(least=-1)] = 1

    RULES: ClassVar[Rules] = (stage_rules.axes,)


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
      loss_weights: of the rows of a task in the loss, above 0; 1 for tasks that are not named.
      shuffle_labels: tasks whose targets are dealt out anew among their samples, for a control.
      at_most: so many samples of a task are learned from, the same ones in all runs; all of those not named.
      frames: of a clip that is asked about; 0 = no questions.
      shown: so many of them, at even distances, are shown; 0 = all.
      recolour: show training clips in other colours and mirrored, see `lwm.data.clip_frames`.
      questions: in a row of `context_length`, each about a clip of its own.
      images: pictures of the documents in a row, at most; 0 = no documents of text and pictures.
      forms: what becomes of the documents of a source, see `data/interleaved_forms.py`; none: "joint".
      shift, mirror: each time, pictures of documents move by so many pixels at most, and half are mirrored.
      trains: parts of the model that are trained, () = all; only for models that have such parts.
      accumulate: microbatches of one optimizer step, for batches that do not fit in memory.
      weighting, caption_dropout, swap_order: see `lwm.data.pipeline.make_batches`.
      text_weight, vision_weight: weights of the two losses; of documents, of language and of denoising, then
        `PAGE_WEIGHTS` where a config says nothing.
      decoder_weight, contrast_weight: of what the decoder and the eyes of a DreamLLM learn of captions alone.
      align_weight: of its control that dreams be like what the decoder's text encoder makes of captions.
      eval_every, eval_batches: held-out batches are looked at every so many steps and at the end; 0 = never.
      checkpoint_every: steps from one checkpoint to the next; 0 = only at the end of the stage.
    """

    name: str
    steps: Annotated[int, SIZE]
    learning_rate: Annotated[float, POSITIVE]
    mesh: Axes
    context_length: Annotated[int, COUNT] = 0
    rope_theta: Annotated[float, POSITIVE] = 10_000.0
    stripe: Annotated[int, COUNT] = 0
    batch_tokens: Annotated[int, COUNT] = 0
    batch_size: Annotated[int, COUNT] = 0
    end_learning_rate: Annotated[float, COUNT] = 0.0
    warmup_steps: Annotated[int, Limits(least=0, most="steps")] = 0
    schedule: Annotated[str, Limits(choices=SCHEDULES)] = "constant"
    mixture: dict[str, Annotated[float, COUNT]] = dataclasses.field(default_factory=dict)
    loss_weights: dict[str, Annotated[float, COUNT]] = dataclasses.field(default_factory=dict)
    shuffle_labels: tuple[str, ...] = ()
    at_most: dict[str, Annotated[int, SIZE]] = dataclasses.field(default_factory=dict)
    frames: Annotated[int, COUNT] = 0
    shown: Annotated[int, COUNT] = 0
    recolour: bool = False
    questions: Annotated[int, SIZE] = 1
    images: Annotated[int, COUNT] = 0
    forms: dict[str, Annotated[str, Limits(choices=FORMS)]] = dataclasses.field(default_factory=dict)
    shift: Annotated[int, COUNT] = 0
    mirror: bool = False
    trains: tuple[str, ...] = ()
    accumulate: Annotated[int, SIZE] = 1
    weighting: Annotated[str, Limits(choices=WEIGHTINGS)] = "example"
    text_weight: Annotated[float, COUNT] = 0.5
    vision_weight: Annotated[float, COUNT] = 0.5
    decoder_weight: Annotated[float, COUNT] = 0.0
    contrast_weight: Annotated[float, COUNT] = 0.0
    align_weight: Annotated[float, COUNT] = 0.0
    caption_dropout: Annotated[float, Limits(least=0, most=1)] = 0.1
    swap_order: bool = True
    eval_every: Annotated[int, COUNT] = 0
    eval_batches: Annotated[int, SIZE] = 4
    checkpoint_every: Annotated[int, COUNT] = 0

    RULES: ClassVar[Rules] = stage_rules.RULES

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
        return any((self.decoder_weight, self.contrast_weight, self.align_weight))

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
    where, sizes = f"config.stages.{stage.name}", dataclasses.asdict(stage.mesh)
    refuse(f"{where}.mesh.{line}" for line in stage_rules.axes(stage.mesh))
    free = [axis for axis, size in sizes.items() if size == -1]
    used = math.prod(size for size in sizes.values() if size != -1)
    if free and devices % used == 0:
        sizes[free[0]] = devices // used
    if math.prod(sizes.values()) != devices:
        shape = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        fix = f"make the product of the axes {devices}, or run on {used} (on a CPU: --cpu_devices={used})"
        raise UserError(f"{where}.mesh: {shape!r} does not fit {devices} devices; {fix}")
    refuse(f"{where}.{line}" for line in stage_rules.uneven(stage, sizes))
    return sizes
