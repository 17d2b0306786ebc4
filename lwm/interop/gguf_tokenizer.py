"""The tokenizer inside a GGUF file, as the files that Hugging Face would keep it in."""

import json
from typing import Annotated, Any

from etils import epath
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from lwm.errors import UserError
from lwm.json_text import check_fields
from lwm.limits import COUNT

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type

_KINDS = {
    **{f"tokenizer.ggml.{name}": str for name in ("model", "pre")},
    **{f"tokenizer.ggml.{name}": tuple[str, ...] for name in ("tokens", "merges")},
    **{f"tokenizer.ggml.{name}_token_id": Annotated[int, COUNT] for name in ("bos", "eos")},
    "tokenizer.ggml.token_type": tuple[int, ...],
    "tokenizer.ggml.add_bos_token": bool,
    "tokenizer.chat_template": str,
}

# How Llama 3 cuts text into words: contractions, letters, up to three digits, marks, line ends, spaces.
_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_files(fields: dict[str, Any], source: epath.PathLike) -> dict[str, bytes]:
    """{"tokenizer.json", "tokenizer_config.json"} from the metadata of a file, {} if it has no tokenizer.

    Raises:
      UserError: a tokenizer that cannot be rebuilt.
    """
    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind is None:
        return {}
    if kind != "gpt2" or not isinstance(cut, str) or cut not in _WORDS:
        raise UserError(
            f"source: {source} has a tokenizer {kind!r} that cuts words like {cut!r}, which is not known; "
            "give the model's own tokenizer by --tokenizer"
        )
    check_fields(source, fields, _KINDS, needs=("tokenizer.ggml.tokens", "tokenizer.ggml.merges"))
    pieces = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=cut == "llama-bpe"))
    except Exception as error:  # the package raises bare Exceptions
        raise UserError(
            f"source: {source} has a tokenizer whose merges and tokens do not go together ({error}); "
            "give the model's own tokenizer by --tokenizer"
        ) from error
    tokenizer.pre_tokenizer = _WORDS[cut]()
    tokenizer.decoder = decoders.ByteLevel()
    types = fields.get("tokenizer.ggml.token_type", [])
    by_type = {
        wanted: [piece for piece, own in zip(pieces, types, strict=False) if own == wanted]
        for wanted in (_CONTROL, _USER_DEFINED)
    }
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in by_type[_CONTROL]])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in by_type[_USER_DEFINED]])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for name in ("bos", "eos"):
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        if number is not None and number >= len(pieces):
            raise UserError(
                f"source: {source} has {name}_token_id {number}, but {len(pieces)} tokens; it is damaged"
            )
        if number is not None:
            settings[f"{name}_token"] = pieces[number]
    settings["add_bos_token"] = bool(fields.get("tokenizer.ggml.add_bos_token", "bos_token" in settings))
    if "tokenizer.chat_template" in fields:
        settings["chat_template"] = fields["tokenizer.chat_template"]
    return {
        "tokenizer.json": tokenizer.to_str().encode("utf-8"),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False).encode("utf-8"),
    }


def _gpt_2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt_2()])


def _llama_3() -> pre_tokenizers.PreTokenizer:
    words = pre_tokenizers.Split(Regex(_LLAMA_3), "isolated")
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_WORDS = {"smollm": _smollm, "llama-bpe": _llama_3, "gpt-2": _gpt_2}
