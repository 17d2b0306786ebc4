"""Text to ids and back: bytes, or SentencePiece trained on the corpus or brought along.

Both classes share ids 0 (unknown, padding), 1 (begin of document) and 2 (end of document), as LLaMA does, and
`decode(encode(text)) == text` for every string that UTF-8 can hold: whitespace is never normalised and what
has no piece is spelled in bytes.
"""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
from etils import epath

from lwm.data.manifest import load_manifest, write_whole
from lwm.errors import UserError

BOS, EOS = 1, 2
_SPACE_MARK = "\u2581"  # SentencePiece writes a space as this character, so the character itself needs bytes.
_CHUNK = 2000  # characters in a training "sentence"


class ByteTokenizer:
    """One id a UTF-8 byte: id = byte + 3."""

    bos, eos, vocab_size = BOS, EOS, 259

    def encode(self, text: str) -> list[int]:
        return (np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + 3).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; ids below 3 are dropped, bytes that are no UTF-8 become U+FFFD."""
        return bytes(int(i) - 3 for i in ids if 3 <= i < 259).decode("utf-8", errors="replace")


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback. `model` is the content of a `.model` file.

    Raises UserError unless the model has LLaMA's special ids (unknown 0, begin 1, end 2) and byte pieces.
    """

    bos, eos = BOS, EOS

    def __init__(self, model: bytes, name: str = "tokenizer"):
        self.model = model
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError:
            raise UserError(f"tokenizer: {name} is not a SentencePiece model; give a .model file") from None
        special = (self._pieces.unk_id(), self._pieces.bos_id(), self._pieces.eos_id())
        if special != (0, BOS, EOS):
            raise UserError(
                f"tokenizer: {name} has unknown, begin, end ids {special}; they must be (0, 1, 2)"
            )
        self.vocab_size = self._pieces.vocab_size()
        self._mark = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode("utf-8")]
        if not all(self._pieces.is_byte(i) for i in self._mark):
            raise UserError(f"tokenizer: {name} has no byte pieces; train it with byte_fallback")

    def encode(self, text: str) -> list[int]:
        first, *rest = text.split(_SPACE_MARK)
        ids = self._pieces.encode(first)
        for part in rest:
            ids += self._mark + self._pieces.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self._pieces.decode([int(i) for i in ids if i > EOS])


Tokenizer = ByteTokenizer | SentencePieceTokenizer


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, path: epath.PathLike | None = None
) -> SentencePieceTokenizer:
    """Trains byte-pair encoding on `texts`, writes the model to `path` if given, and returns it.

    Identity normalisation, no dummy prefix, spaces and newlines kept, digits split, byte fallback.
    Raises UserError if the texts cannot fill `vocab_size` pieces, or are empty.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_chunks(texts),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="bpe",
            unk_id=0,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9995,
            max_sentence_length=8 * _CHUNK,
            input_sentence_size=1_000_000,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"vocab_size: {vocab_size} does not suit the training text ({reason[-150:]}); "
            "choose a smaller one or --tokenizer=bytes"
        ) from None
    if path is not None:
        write_whole(path, model.getvalue())
    return SentencePieceTokenizer(model.getvalue())


def load_tokenizer(path: epath.PathLike) -> Tokenizer:
    """Returns the tokenizer of a data folder (its `tokenizer.model`, else bytes) or of a `.model` file.

    Raises UserError if `path` is neither.
    """
    path = epath.Path(path)
    if path.is_dir():
        if load_manifest(path)["tokenizer"] == "bytes":
            return ByteTokenizer()
        path = path / "tokenizer.model"
    if not path.exists():
        raise UserError(
            f"tokenizer: {path} does not exist; give a SentencePiece .model file or a data folder"
        )
    return SentencePieceTokenizer(path.read_bytes(), str(path))


def _chunks(texts: Iterable[str]) -> Iterator[str]:
    """Whole lines, up to about _CHUNK characters at a time, newlines kept so that they enter the pieces."""
    for text in texts:
        chunk = ""
        for line in text.splitlines(keepends=True):
            for start in range(0, len(line), _CHUNK):
                part = line[start : start + _CHUNK]
                if len(chunk) + len(part) > _CHUNK and chunk:
                    yield chunk
                    chunk = ""
                chunk += part
        if chunk:
            yield chunk
