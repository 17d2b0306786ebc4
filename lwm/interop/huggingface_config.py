"""The config.json of a Llama in Hugging Face's folders, to our config and back."""

from typing import Any

from etils import epath

from lwm.errors import UserError
from lwm.models.sizes import TransformerConfig


def parse(description: dict, folder: epath.Path) -> TransformerConfig:
    """The model that a config.json describes, of older or newer versions of transformers.

    Raises:
      UserError: a field is missing, or the model is no Llama; it is named.
    """
    for field, known in (("model_type", "llama"), ("hidden_act", "silu")):
        if description.get(field, known) != known:
            raise UserError(
                f"source: {folder} has {field} {description[field]!r}; only {known!r} can be imported"
            )
    for field in ("attention_bias", "mlp_bias"):
        if description.get(field):
            raise UserError(f"source: {folder} has {field}; a Llama here has no biases")
    rope = description.get("rope_parameters") or description.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError(f"source: {folder}/config.json has {rope!r} to scale rotations by; fetch it again")
    heads, width = (_number(description, name, folder) for name in ("num_attention_heads", "hidden_size"))
    theta = _number(description, "rope_theta", folder, float, 10_000.0)
    return TransformerConfig(
        vocab_size=_number(description, "vocab_size", folder),
        vision_vocab_size=0,
        width=width,
        ffn=_number(description, "intermediate_size", folder),
        layers=_number(description, "num_hidden_layers", folder),
        heads=heads,
        kv_heads=_number(description, "num_key_value_heads", folder, int, heads),
        head_dim=_number(description, "head_dim", folder, int, width // max(heads, 1)),
        rope_theta=_number(rope, "rope_theta", folder, float, theta),
        norm_eps=_number(description, "rms_norm_eps", folder, float, 1e-6),
        tied=bool(description.get("tie_word_embeddings", False)),
        **_scaling(rope, description, folder),
    )


def context_length(description: dict, folder: epath.Path) -> int:
    """Tokens that the model was made for. Raises UserError if they are no whole number."""
    return _number(description, "max_position_embeddings", folder, int, 2048)


def _scaling(rope: dict, description: dict, folder: epath.Path) -> dict:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return {}
    if kind != "llama3":
        raise UserError(f"source: {folder} scales rotations by {kind!r}; only 'llama3' can be imported")
    length = context_length(description, folder)
    return {
        "rope_factor": _number(rope, "factor", folder, float),
        "rope_low": _number(rope, "low_freq_factor", folder, float),
        "rope_high": _number(rope, "high_freq_factor", folder, float),
        "rope_original": _number(rope, "original_max_position_embeddings", folder, int, length),
    }


def describe(config: TransformerConfig, context_length: int) -> dict:
    """The config.json of a model, without what its weights and its tokenizer say.

    Rotations are described twice, as readers of either age ask for them.
    """
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_factor != 1:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_factor,
            "low_freq_factor": config.rope_low,
            "high_freq_factor": config.rope_high,
            "original_max_position_embeddings": config.rope_original,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context_length,
        "rms_norm_eps": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_factor != 1 else None,
        "rope_parameters": rope,
    }


def _number(
    block: dict, name: str, folder: epath.Path, kind: type = int, otherwise: float | None = None
) -> Any:
    """A field as a number of a kind; what else it is if it is not there, or null or 0."""
    value = block.get(name) or otherwise
    if value is None:
        raise UserError(f"source: {folder}/config.json has no {name}; it is incomplete or no Llama")
    if isinstance(value, bool) or not isinstance(value, int | kind) or not abs(value) < 2**63:
        raise UserError(
            f"source: {folder}/config.json has {name} {value!r}, no {kind.__name__}; fetch it again"
        )
    return kind(value)
