"""The models that a config can name; the one place where a name becomes a class."""

from collections.abc import Mapping
from typing import Any

from lwm.errors import UserError, refuse
from lwm.models import cross_attention, dreamllm, multimodel, transformer, vqgan
from lwm.training.model_block import PATH, read_model

MODELS = {
    "lwm": transformer.LWM,
    "cross_attention": cross_attention.CrossAttentionLM,
    "dreamllm": dreamllm.DreamLLM,
    "multimodel": multimodel.MultiModel,
    "vqgan": vqgan.VQGAN,
}


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
    config, lines = read_model(block, stage, **overrides)
    refuse(lines)
    try:
        return MODELS[block["name"]](config)
    except UserError as error:
        raise UserError(f"{PATH}.{error}") from error
