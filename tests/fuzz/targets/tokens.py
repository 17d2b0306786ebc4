"""Tokenizers that come with a model or with a data folder."""

import functools
import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from lwm.data.tokenizers import load_tokenizer, train_sentencepiece
from tests.fuzz.target import Target

_TEXT = "A cat, two caf\u00e9s \u4e16 and 3 dogs.\n"


def _json() -> list[bytes]:
    pieces = ["<s>", "</s>", "a", "b", "c", "ab", "\u0120", "\u0120a"]
    bpe = models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[("a", "b"), ("\u0120", "a")])
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    words = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return [tokenizer.to_str().encode(), words.to_str().encode()]


def _settings() -> list[bytes]:
    block = {"content": "</s>", "special": True}
    return [json.dumps({"bos_token": "<s>", "eos_token": block, "add_bos_token": False}).encode()]


@functools.cache
def _pieces() -> bytes:
    return next(iter(train_sentencepiece([_TEXT * 20], 280).files.values()))


def _use(path: Path) -> None:
    tokenizer = load_tokenizer(path)
    ids = tokenizer.encode(_TEXT)
    tokenizer.encode(_TEXT, specials=True)
    tokenizer.decode([*ids[:20], tokenizer.eos, tokenizer.bos, *tokenizer.prefix, tokenizer.vocab_size - 1])


TARGETS = (
    Target("tokenizer_json", "tokenizer.json", _json, _use, 8),
    Target(
        "tokenizer_config",
        "tokenizer_config.json",
        _settings,
        lambda path: _use(path.parent),
        8,
        lay=lambda folder: (folder / "tokenizer.json").write_bytes(_json()[0]),
    ),
    Target("sentencepiece", "tokenizer.model", lambda: [_pieces()], _use, 6),
)
