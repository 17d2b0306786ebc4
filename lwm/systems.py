"""The models that a config can name; the one place where a name becomes a class."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lwm.errors import UserError
from lwm.models import cross_attention, dreamllm, multimodel, transformer, vqgan
from lwm.training import schema

MODELS = {
    "lwm": (transformer.LWM, transformer.TransformerConfig, transformer.SIZES),
    "cross_attention": (
        cross_attention.CrossAttentionLM,
        cross_attention.CrossAttentionConfig,
        cross_attention.SIZES,
    ),
    "dreamllm": (dreamllm.DreamLLM, dreamllm.DreamConfig, dreamllm.SIZES),
    "multimodel": (multimodel.MultiModel, multimodel.MultiModelConfig, multimodel.SIZES),
    "vqgan": (vqgan.VQGAN, vqgan.VQGANConfig, vqgan.SIZES),
}

_OF_STAGES = (
    "rope_theta",
    "stripe",
    "text_weight",
    "vision_weight",
    "decoder_weight",
    "contrast_weight",
    "trains",
)


def build_model(block: Mapping[str, Any], stage: Mapping[str, Any] | None = None, **overrides: Any) -> Any:
    """Builds the model that a config describes.

    Args:
      block: {"name", "size", …fields of the model's config that differ from the size's}; without "size" (a
        converted model's) all that have no default.
      stage: fields of a stage; those that the model has too (theta, loss weights) are taken over.
      overrides: fields that win over all others.

    Raises:
      UserError: an unknown name, size or field, or a value that no model can have.
    """
    path = "config.model"
    rest = dict(block)
    name, size = rest.pop("name", None), rest.pop("size", None)
    if name not in MODELS:
        raise UserError(f"{path}.name: {name!r} is no model; {schema.suggest(name, MODELS)}")
    model, config, sizes = MODELS[name]
    if size is not None and size not in sizes:
        raise UserError(f"{path}.size: {size!r} is no size of {name}; {schema.suggest(size, sizes)}")
    known = {field.name for field in dataclasses.fields(config)}
    own = {field: stage[field] for field in _OF_STAGES if field in known and field in (stage or {})}
    try:
        return model(schema.build(config, _merged(sizes.get(size, {}), rest) | own | overrides, path=path))
    except UserError as error:
        text = str(error).removeprefix("config.").removeprefix("model.")
        raise UserError(f"{path}.{text}") from error


def _merged(size: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a size with those of a block in their place, inside parts that are blocks as well."""
    return dict(size) | {
        name: _merged(size[name], value)
        if isinstance(value, Mapping) and isinstance(size.get(name), Mapping)
        else value
        for name, value in block.items()
    }
