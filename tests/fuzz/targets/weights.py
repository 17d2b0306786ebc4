"""Weights that other programs wrote: safetensors, GGUF, pickles, streamed msgpack."""

import functools
import io
import itertools
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from etils import epath

from lwm.interop import (
    assembly,
    formats,
    gguf_file,
    huggingface,
    lwm_release,
    lwm_vqgan,
    pickles,
    safetensors_file,
    streamed,
)
from lwm.interop.names import GGUF, HUGGINGFACE, LWM_RELEASE
from tests.fuzz.target import Target

# Of the parameters of a small Llama, by the last names in their paths; it has no tables of vision.
_SHAPES = {
    **{name: (8,) for name in ("attention_norm", "ffn_norm", "final_norm")},
    **{"wte": (12, 8), "lm_head": (8, 12), "attention": (8, 8), "wk": (8, 4), "wv": (8, 4)},
    **{"w1": (8, 12), "w3": (8, 12), "w2": (12, 8)},
}
_DESCRIPTION = {
    "model_type": "llama",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "tie_word_embeddings": False,
}
_SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_SCALED |= {"original_max_position_embeddings": 32, "rope_theta": 5e5}


# Most inputs describe one of a few models; tracing it is slow and no part of reading a file.
assembly.parameter_shapes = functools.lru_cache(maxsize=256)(assembly.parameter_shapes)


@functools.cache
def _theirs(table: tuple, transposed: bool) -> dict[str, np.ndarray]:
    """Values of the small Llama by the names of a table."""
    found, rng = {}, np.random.default_rng(0)
    for name in table:
        *_, module, leaf = name.ours.split("/")
        own = _SHAPES.get(leaf, _SHAPES.get(module))
        if own is not None:
            turned = own[::-1] if transposed and "embedding" not in name.ours else own
            found[name.theirs.format(0)] = rng.standard_normal(turned, np.float32)
    return found


def _safetensors(header: bytes, values: int = 4096) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(values)


@functools.cache
def _header(kind: str = "F32") -> bytes:
    size, end, header = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}[kind], 0, {"__metadata__": {"format": "pt"}}
    for name, value in _theirs(HUGGINGFACE, True).items():
        start, end = end, end + value.size * size
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [start, end]}
    return json.dumps(header).encode()


def _small_header() -> bytes:
    entries = {"a": ("F32", [2, 3], [0, 24]), "b": ("BF16", [4], [24, 32]), "c": ("F64", [], [32, 40])}
    return json.dumps(
        {
            name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True))
            for name, entry in entries.items()
        }
    ).encode()


def _read_safetensors(path: Path) -> None:
    for tensor in safetensors_file.index(epath.Path(path)).values():
        tensor.read()


def _lay_huggingface(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(_DESCRIPTION))
    (folder / "model.safetensors").write_bytes(_safetensors(_header()))


def _index_json() -> bytes:
    where = {name: f"model-0000{at % 2}.safetensors" for at, name in enumerate(_theirs(HUGGINGFACE, True))}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": where}).encode()


def _lay_shards(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(_DESCRIPTION))
    for number in range(2):
        (folder / f"model-0000{number}.safetensors").write_bytes(_safetensors(_header()))


def _value(value: Any) -> bytes:
    """A GGUF value with its type: JSON keeps no other kinds."""
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return (
            struct.pack("<Iq", 11, min(max(value, -(2**63)), 2**63 - 1))
            if abs(value) > 2**31
            else struct.pack("<Ii", 5, min(max(value, -(2**31)), 2**31 - 1))
        )
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, list):
        items = [_value(item) for item in value]
        same = [item for item in items if item[:4] == items[0][:4]]
        kind = items[0][:4] if items else struct.pack("<I", 5)
        return (
            struct.pack("<I", 9) + kind + struct.pack("<Q", len(same)) + b"".join(item[4:] for item in same)
        )
    return struct.pack("<I", 8) + _text(value if isinstance(value, str) else json.dumps(value))


def _text(text: str) -> bytes:
    content = text.encode("utf-8", errors="surrogatepass")
    return struct.pack("<Q", len(content)) + content


def _gguf(fields: dict[str, Any], tensors: dict[str, np.ndarray]) -> bytes:
    """A file by hand: a hostile one may say what no writer would."""
    out = io.BytesIO()
    out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)))
    for name, value in fields.items():
        out.write(_text(name) + _value(value))
    offset = 0
    for name, value in tensors.items():
        out.write(_text(name) + struct.pack("<I", value.ndim))
        out.write(struct.pack(f"<{value.ndim}Q", *reversed(value.shape)) + struct.pack("<IQ", 0, offset))
        offset += -(-value.nbytes // 32) * 32
    out.write(bytes(-out.tell() % 32))
    for value in tensors.values():
        out.write(value.tobytes() + bytes(-value.nbytes % 32))
    return out.getvalue()


_FIELDS = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.block_count": 1,
    "llama.feed_forward_length": 12,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.attention.key_length": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 1e4,
}
_WORDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<s>", "</s>", "a", "b", "c", "ab", "abc", "Ġ", "Ġa", "d", "e", "f"],
    "tokenizer.ggml.token_type": [3, 3, 1, 1, 1, 1, 1, 1, 1, 4, 1, 1],
    "tokenizer.ggml.merges": ["a b", "ab c", "Ġ a"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.chat_template": "{{ messages }}",
}


def _fields() -> list[bytes]:
    plain = dict(_FIELDS)
    return [
        json.dumps(plain).encode(),
        json.dumps(plain | _WORDS).encode(),
        json.dumps(_WORDS | plain).encode(),
    ]


def _wrap_fields(content: bytes) -> bytes:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = {}
    return _gguf(fields if isinstance(fields, dict) else {"x": fields}, _theirs(GGUF, True))


def _gguf_files() -> list[bytes]:
    factors = {"rope_freqs.weight": np.ones(2, np.float32)}
    small = {"token_embd.weight": np.zeros((12, 8), np.float32)}
    return [
        _gguf(_FIELDS, _theirs(GGUF, True)),
        _gguf(_FIELDS | _WORDS, small | factors),
        _gguf({"general.alignment": 32} | _FIELDS, small),
    ]


def _pickles() -> list[bytes]:
    rng = np.random.default_rng(0)
    tree = {
        "a": {"b": rng.standard_normal((2, 3), np.float32)},
        "c": np.asfortranarray(np.ones((2, 2), np.float16)),
    }
    return [pickle.dumps(tree, protocol) for protocol in (2, 3, 4, 5)]


@functools.cache
def _vqgan() -> bytes:
    """The arrays of a VQGAN of one level, by LWM's names."""
    import jax

    from lwm.models.vqgan import VQGAN, VQGANConfig

    config = VQGANConfig(
        resolution=8, channels=32, multipliers=(1,), blocks=1, latent_channels=4, codes=8, code_channels=4
    )
    shapes = jax.eval_shape(lambda key: VQGAN(config).init(key, {}), jax.random.key(0))
    tree: dict = {}
    for path, leaf in jax.tree.leaves_with_path(shapes):
        *folders, name = lwm_vqgan._theirs(jax.tree_util.keystr(path, simple=True, separator="/"), 1).split(
            "/"
        )
        node = functools.reduce(lambda node, folder: node.setdefault(folder, {}), folders, tree)
        node[name] = np.zeros(leaf.shape, np.float16)
    return pickle.dumps(tree, 4)


def _stream(tree: dict[str, Any]) -> bytes:
    """What tux writes of a flat tree: pairs of a key and a packed array."""
    packed = []
    for name, value in tree.items():
        inner = msgpack.packb((value.shape, value.dtype.name, value.tobytes()))
        array = msgpack.packb(msgpack.ExtType(1, inner))
        packed.append(msgpack.packb((tuple(name.split("/")), array)))
    return b"".join(packed)


def _streams() -> list[bytes]:
    small = {
        "params/a": np.ones((2, 3), np.float32),
        "params/b/c": np.ones(2, np.float16),
        "step": np.ones((), "i4"),
    }
    pieces = {"shape": {"0": 2, "1": 2}, "__msgpack_chunked_array__": True}
    arrays = [msgpack.ExtType(1, msgpack.packb(((2,), "float32", bytes(8)))) for _ in range(2)]
    chunks = msgpack.packb(pieces | {"chunks": {str(at): one for at, one in enumerate(arrays)}})
    return [_stream(small), _stream(small) + msgpack.packb((("params", "d"), chunks))]


def _read_stream(path: Path) -> None:
    for tensor in streamed.index(epath.Path(path)).values():
        tensor.read()


def _released() -> list[bytes]:
    values = {name: value for name, value in _theirs(LWM_RELEASE, False).items()}
    stacked = {
        name.replace("/h/0/", "/h/scan_decoder/"): value[None] if "/h/0/" in name else value
        for name, value in values.items()
    }
    return [_stream(values), _stream({f"params/params/{name}": value for name, value in stacked.items()})]


def _read_released(path: Path) -> None:
    lwm_release.read(path, context_length=64, rope_theta=1e4, heads=2)


def _starts() -> list[bytes]:
    return list(
        itertools.chain(_pickles(), _streams(), [_gguf(_FIELDS, {})], [_safetensors(_small_header())])
    ) + [b"PK\x03\x04" + bytes(40)]


def _of(read: Callable) -> Callable[[Path], None]:
    return lambda path: read(epath.Path(path))


TARGETS = (
    Target("safetensors", "x", lambda: [_safetensors(_small_header(), 40)], _read_safetensors, 20),
    Target(
        "safetensors_header",
        "x",
        lambda: [_small_header(), _header()],
        _read_safetensors,
        20,
        wrap=_safetensors,
    ),
    Target(
        "huggingface_config",
        "config.json",
        lambda: [json.dumps(_DESCRIPTION | {"rope_parameters": own}).encode() for own in ({}, _SCALED)],
        lambda path: huggingface.read(path.parent),
        1,
        lay=_lay_huggingface,
        many=True,
    ),
    Target(
        "huggingface_index",
        "model.safetensors.index.json",
        lambda: [_index_json()],
        lambda path: huggingface.read(path.parent),
        1,
        lay=_lay_shards,
        many=True,
    ),
    Target("gguf", "x.gguf", _gguf_files, lambda path: gguf_file.read(path), 1, many=True),
    Target(
        "gguf_fields", "x.gguf", _fields, lambda path: gguf_file.read(path), 1, wrap=_wrap_fields, many=True
    ),
    Target("pickle", "x", _pickles, _of(pickles.read_arrays), 20),
    Target("vqgan", "x", lambda: [_vqgan()], lambda path: lwm_vqgan.read(path, resolution=8), 1, many=True),
    Target("streamed", "x", _streams, _read_stream, 20),
    Target("lwm_release", "x", _released, _read_released, 1, many=True),
    Target("format", "x", _starts, formats.recognise, 10),
)
