"""Whether a stage and a model go together: the rules between their fields. Needs no JAX, see `lwm.limits`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from lwm.errors import refuse
from lwm.limits import Unread, suggest
from lwm.models.dream_sizes import DreamConfig
from lwm.models.sizes import TransformerConfig
from lwm.models.vqgan_sizes import VQGANConfig

# What a mesh axis cuts of a transformer: both kinds of heads, as no head is shared, and the other dimensions.
_CUT = ("heads", "kv_heads", "ffn", "vocab_size", "vision_vocab_size")


def check_suitability(stage: Any, config: Any) -> None:
    """Checks that a stage and the config of a model go together.

    Raises:
      UserError: the model does not read what the stage has for it, or the mesh cannot cut the model.
    """
    refuse(unsuitable(stage, config))


def unsuitable(stage: Any, config: Any) -> list[str]:
    """Lines about what does not go together; rules that would read a field that is wrong say nothing."""
    lines: list[str] = []
    for rule in _RULES:
        with contextlib.suppress(Unread):
            for line in rule(stage, config):
                lines.append(f"config.stages.{stage.name}.{line}")
    return lines


def _pictures(stage: Any, config: Any) -> Iterator[str]:
    if isinstance(config, VQGANConfig) and stage.context_length:
        yield (
            f"context_length: {stage.context_length} for a model of pictures alone; use 0, with a batch_size "
            "in place of batch_tokens and mixture"
        )
    if isinstance(config, TransformerConfig | DreamConfig) and stage.of_images:
        yield "context_length: 0 for a model that reads tokens; give a length, batch_tokens and a mixture"


def _tasks(stage: Any, config: Any) -> Iterator[str]:
    tasks = getattr(config, "tasks", None)
    if stage.of_tasks and tasks is None:
        fix = "leave it out, or set config.model.name to 'multimodel'"
        yield f"mixture: {stage.mixture} for a model that has no tasks; {fix}"
    elif tasks and not stage.of_tasks:
        fix = f"give batch_size, no context_length, and for example {{{tasks[0]!r}: 1.0}}"
        yield f"mixture: names no tasks, which the model is for; {fix}"


def _task_names(stage: Any, config: Any) -> Iterator[str]:
    tasks = getattr(config, "tasks", None) or ()
    for task in stage.mixture if tasks and stage.of_tasks else ():
        if task not in tasks:
            yield f"mixture: the model has no task {task!r}; {suggest(task, tasks)}"


def _pages(stage: Any, config: Any) -> Iterator[str]:
    reads = hasattr(config, "queries")
    if stage.of_pages and not reads:
        fix = "leave it out, or set config.model.name to 'dreamllm'"
        yield f"images: {stage.images} for a model that reads no documents; {fix}"
    if reads and not stage.of_pages:
        yield "images: 0 for a model that reads documents with pictures; give for example 4"


def _captions(stage: Any, config: Any) -> Iterator[str]:
    if stage.of_captions and not (hasattr(config, "decoder") and config.decoder.text_vocab_size):
        yield (
            f"decoder_weight: {stage.decoder_weight}, contrast_weight {stage.contrast_weight}, align_weight "
            f"{stage.align_weight} need captions, which the model does not read; set them to 0, or give "
            "decoder.text_vocab_size"
        )


def _trained(stage: Any, config: Any) -> Iterator[str]:
    if stage.trains and not hasattr(config, "trains"):
        yield f"trains: {stage.trains} for a model that has no such parts; leave it out"


def _clips(stage: Any, config: Any) -> Iterator[str]:
    sees = hasattr(config, "frame_tokens")
    if stage.of_clips and not sees:
        yield (
            f"frames: {stage.frames} for a model that sees no frames; leave it out, or set config.model.name"
        )
    if sees and not stage.of_clips:
        yield "frames: 0 frames for a model that looks at clips; give for example 64"


def _divided(stage: Any, config: Any) -> Iterator[str]:
    """What can be said before the devices are counted: an axis of -1 has at least one."""
    language = getattr(config, "language", config)
    if not isinstance(language, TransformerConfig):
        return
    tensor, rest = abs(stage.mesh.tensor), abs(stage.mesh.fsdp * stage.mesh.seq)
    where = "config.model.language" if language is not config else "config.model"
    for field in _CUT:
        with contextlib.suppress(Unread):
            if tensor and (size := getattr(language, field)) % tensor:
                yield f"mesh.tensor: {tensor} does not divide {where}.{field} = {size}; change one of them"
    if rest and language.width % rest:
        yield (
            f"mesh: fsdp x seq = {rest} does not divide {where}.width = {language.width}; change one of them"
        )


_RULES: tuple[Callable[[Any, Any], Iterator[str]], ...] = (
    *(_pictures, _tasks, _task_names, _pages, _captions, _trained, _clips, _divided),
)
