"""GGUF files of llama.cpp with a Llama inside, dequantised tensor by tensor.

Rows of queries and keys are already in the order of interleaved rotary pairs (llama.cpp's converter permutes
them), so they are only transposed. Dequantised values are float32.
"""

import dataclasses
from typing import Annotated, Any

import gguf
import numpy as np
from etils import epath
from jax.sharding import Mesh

from lwm import bounds
from lwm.errors import UserError
from lwm.interop.assembly import match, read_params
from lwm.interop.gguf_tokenizer import tokenizer_files
from lwm.interop.imported import Imported
from lwm.interop.names import GGUF
from lwm.json_text import check_fields
from lwm.limits import COUNT, POSITIVE, SIZE
from lwm.models.sizes import TransformerConfig
from lwm.ops.rope import Scaling, frequencies

_FACTORS = "rope_freqs.weight"  # what Llama 3's scaling divides each frequency by
_NUMBERS = {
    **{
        f"llama.{name}": Annotated[int, SIZE]
        for name in (
            *("context_length", "embedding_length", "block_count", "feed_forward_length"),
            *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
        )
    },
    "llama.rope.freq_base": Annotated[float, POSITIVE],
    "llama.attention.layer_norm_rms_epsilon": Annotated[float, COUNT],
}
_PLAIN = {"F32": np.float32, "F16": np.float16}


class _Reader(gguf.GGUFReader):
    """Stops at counts that no file keeps; the package goes on past the end of a file."""

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type == gguf.GGUFValueType.ARRAY:
            kind, count = self._get(orig_offs, np.uint32)[0], self._get(orig_offs + 4, np.uint64)[0]
            if kind == gguf.GGUFValueType.ARRAY or count > min(bounds.ITEMS, len(self.data) - orig_offs):
                raise ValueError(f"a list of {count} items")
        return super()._get_field_parts(orig_offs, raw_type)

    def _build_fields(self, offs: int, count: int) -> int:
        return super()._build_fields(offs, self._few(count))

    def _build_tensor_info(self, offs: int, count: int) -> Any:
        return super()._build_tensor_info(offs, self._few(count))

    def _few(self, count: int) -> int:
        if count > bounds.ENTRIES:
            raise ValueError(f"{count} entries or tensors")
        return count


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """A tensor of an opened file; its values are dequantised when they are read."""

    tensor: gguf.ReaderTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self.tensor.shape))

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_PLAIN.get(self.tensor.tensor_type.name, np.float32))

    def read(self) -> np.ndarray:
        try:
            values = gguf.dequantize(self.tensor.data, self.tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            kind = self.tensor.tensor_type.name
            raise UserError(
                f"source: {self.tensor.name} is kept in {kind}, which cannot be read ({error}); fetch another"
            ) from error
        return values.astype(self.dtype, copy=False)


def read(source: epath.PathLike, *, mesh: Mesh | None = None, dtype: Any = None) -> Imported:
    """Reads a whole file.

    Args:
      source: a local file.
      mesh: to spread the parameters on, None = one device.
      dtype: to keep them in, None = float32, or float16 where they are not quantised.

    Raises:
      UserError: the file is cut short, holds no Llama, or lacks a tensor or an entry.
    """
    try:
        reader = _Reader(str(source))
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # whatever the package stumbles over
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"source: {source} is cut short or damaged ({reason}); fetch it again") from error
    if sum(int(tensor.n_bytes) for tensor in reader.tensors) > len(reader.data):
        raise UserError(f"source: {source} is damaged: its tensors overlap; fetch it again")
    found = {tensor.name: GGUFTensor(tensor) for tensor in reader.tensors}
    factors = found.pop(_FACTORS, None)
    config = _config(fields, found, source)
    if factors is not None:
        config = dataclasses.replace(config, **_scaling(factors.read(), config, source))
    parts = match(GGUF, found, config, str(source))
    return Imported(
        "lwm",
        config,
        read_params(parts, config, mesh, dtype),
        _entry(fields, "llama.context_length", source),
        tokenizer_files(fields, source),
    )


def _config(fields: dict, found: dict, source: epath.PathLike) -> TransformerConfig:
    if fields.get("general.architecture") != "llama":
        raise UserError(
            f"source: {source} holds the architecture {fields.get('general.architecture')!r}; "
            "only llama can be imported"
        )
    numbers = {name: value for name, value in fields.items() if name.startswith("llama.")}
    check_fields(source, numbers, _NUMBERS)
    heads = _entry(fields, "llama.attention.head_count", source)
    width = _entry(fields, "llama.embedding_length", source)
    head_dim = fields.get("llama.attention.key_length", width // heads)
    for name, plain in (("llama.rope.scaling.type", "none"), ("llama.rope.dimension_count", head_dim)):
        if fields.get(name, plain) != plain:
            raise UserError(f"source: {source} has {name} {fields[name]!r}; only {plain!r} can be imported")
    if "token_embd.weight" not in found or not found["token_embd.weight"].shape:
        raise UserError(f"source: {source} has no tensor token_embd.weight; it is incomplete or no Llama")
    return TransformerConfig(
        vocab_size=found["token_embd.weight"].shape[0],
        vision_vocab_size=0,
        width=width,
        ffn=_entry(fields, "llama.feed_forward_length", source),
        layers=_entry(fields, "llama.block_count", source),
        heads=heads,
        kv_heads=fields.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        rope_theta=fields.get("llama.rope.freq_base", 10_000.0),
        norm_eps=_entry(fields, "llama.attention.layer_norm_rms_epsilon", source),
        tied="output.weight" not in found,
    )


def _entry(fields: dict, name: str, source: epath.PathLike) -> Any:
    if name not in fields:
        raise UserError(f"source: {source} has no entry {name}; it is incomplete")
    return fields[name]


def _scaling(factors: np.ndarray, config: TransformerConfig, source: epath.PathLike) -> dict:
    """Fields of the scaling that divides the frequencies so; GGUF keeps the result instead of the rule."""
    H, theta = config.head_dim, config.rope_theta
    scaling = Scaling(float(factors.max(initial=1.0)), 1.0, 4.0, 8192)
    expected = frequencies(H, theta) / frequencies(H, theta, scaling)
    if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
        raise UserError(
            f"source: {source} scales frequencies by a rule that is not Llama 3's; see {_FACTORS}"
        )
    return {f"rope_{name}": value for name, value in scaling._asdict().items()}
