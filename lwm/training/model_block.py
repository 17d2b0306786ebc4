"""The block `model` of a config: a name, perhaps a size, and fields in which the model differs from it.

Read without JAX, so that a mistake in it is told before anything large is imported; `lwm.systems` makes the
model of it.
"""

from collections.abc import Mapping
from typing import Any

from lwm.limits import faults, kinds, missing, suggest, wrong_type
from lwm.models import cross_sizes, dream_sizes, multimodel_sizes, sizes, vqgan_sizes
from lwm.training import schema

# Name: the class of its config, and its sizes.
CONFIGS = {
    "lwm": (sizes.TransformerConfig, sizes.SIZES),
    "cross_attention": (cross_sizes.CrossAttentionConfig, cross_sizes.SIZES),
    "dreamllm": (dream_sizes.DreamConfig, dream_sizes.SIZES),
    "multimodel": (multimodel_sizes.MultiModelConfig, multimodel_sizes.SIZES),
    "vqgan": (vqgan_sizes.VQGANConfig, vqgan_sizes.SIZES),
}
PATH = "config.model"

_OF_STAGES = (
    "rope_theta",
    "stripe",
    "text_weight",
    "vision_weight",
    "decoder_weight",
    "contrast_weight",
    "align_weight",
    "trains",
)


def read_model(
    block: Mapping[str, Any], stage: Mapping[str, Any] | None = None, **overrides: Any
) -> tuple[Any, list[str]]:
    """The config of a model, and what is wrong with it; see `systems.build_model` for the arguments.

    Returns:
      As `schema.read`; None in place of the config if it is not known which class it should be of.
    """
    rest, stage = dict(block), stage or {}
    name, size = rest.pop("name", None), rest.pop("size", None)
    if name is None:
        return None, [missing(f"{PATH}.name", str)]
    if not isinstance(name, str):
        return None, [wrong_type(f"{PATH}.name", str, name)]
    if name not in CONFIGS:
        return None, [f"{PATH}.name: {name!r} is no model; {suggest(name, CONFIGS)}"]
    config, known = CONFIGS[name]
    if size is not None and (not isinstance(size, str) or size not in known):
        return None, [f"{PATH}.size: {size!r} is no size of {name}; {suggest(size, known)}"]
    fields, where = kinds(config), f"config.stages.{stage.get('name')}"
    own = {field: stage[field] for field in _OF_STAGES if field in fields and field in stage}
    read, lines = schema.read(config, _merged(known.get(size, {}), rest) | own | overrides, path=PATH)
    # What the stage says is the stage's mistake; what it covers up is looked at all the same.
    told = tuple(f"{PATH}.{field}{mark}" for field in own for mark in ":[")
    lines = [line.replace(PATH, where, 1) if line.startswith(told) else line for line in lines]
    for field in own.keys() & rest.keys():
        lines += faults(fields[field], rest[field], f"{PATH}.{field}")
    return read, lines


def _merged(size: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a size with those of a block in their place, inside parts that are blocks as well."""
    return dict(size) | {
        name: _merged(size[name], value)
        if isinstance(value, Mapping) and isinstance(size.get(name), Mapping)
        else value
        for name, value in block.items()
    }
