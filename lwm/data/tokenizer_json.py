"""The `tokenizer.json` of Hugging Face's `tokenizers`, as converted models bring it along."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tokenizers

from lwm.errors import UserError

# Looked for when no tokenizer_config.json says which token begins and which one ends a document.
_BEGINNINGS = ("<s>", "<|begin_of_text|>", "<|im_start|>", "<|endoftext|>")
_ENDS = ("</s>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>")


class JsonTokenizer:
    """`content` is that of a tokenizer.json, `settings` of the tokenizer_config.json beside it.

    Of the settings "bos_token", "eos_token" and "add_bos_token" are read: some models have a begin token and
    yet never saw it at the head of a plain document, which is what `prefix` says.

    Raises UserError if the content is no tokenizer, or if none of its tokens ends a document.
    """

    kind = "json"

    def __init__(
        self, content: bytes, name: str = "tokenizer.json", settings: Mapping[str, Any] | None = None
    ):
        settings = settings or {}
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the package raises bare Exceptions
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"tokenizer: {name} is no tokenizer.json ({reason}); give another file") from None
        self.files = {"tokenizer.json": content}
        if settings:
            self.files["tokenizer_config.json"] = json.dumps(settings, indent=2, ensure_ascii=False).encode()
        if not self._tokenizer.get_vocab_size(with_added_tokens=True):
            raise UserError(f"tokenizer: {name} has no tokens; give another file")
        self._name, added = name, self._tokenizer.get_added_tokens_decoder()
        self.specials = {token.content: i for i, token in sorted(added.items()) if token.special}
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        end = self._find(settings.get("eos_token"), _ENDS)
        if end is None:
            raise UserError(
                f"tokenizer: {name} does not say which token ends a document; "
                "write its eos_token into tokenizer_config.json beside it"
            )
        begin = self._find(settings.get("bos_token"), _BEGINNINGS)
        self.eos, self.bos = end, end if begin is None else begin
        self.prefix = (self.bos,) if begin is not None and settings.get("add_bos_token", True) else ()

    def encode(self, text: str, specials: bool = False) -> list[int]:
        """Ids of the text; the names of control tokens in it are text like any other unless asked for."""
        self._tokenizer.encode_special_tokens = not specials
        with self._whole():
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; control tokens are dropped, bytes that are no UTF-8 become U+FFFD."""
        with self._whole():
            return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """The parts of a tokenizer are there, but they may not go together; only use shows it."""
        try:
            yield
        except Exception as error:  # the package raises bare Exceptions
            raise UserError(f"tokenizer: {self._name} cannot be used ({error}); give another file") from error

    def _find(self, named: Any, usual: Sequence[str]) -> int | None:
        """Id of the token that the settings name (a text, or a block with its text), or of a usual one."""
        named = named.get("content") if isinstance(named, Mapping) else named
        texts = [named] if named and isinstance(named, str) else usual
        found = (self._tokenizer.token_to_id(text) for text in texts)
        return next((i for i in found if i is not None), None)
