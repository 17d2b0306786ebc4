"""Text to ids and back: bytes, SentencePiece trained on the corpus or brought along, or a tokenizer.json.

The first two share ids 0 (unknown, padding), 1 (begin of document) and 2 (end of document), as LLaMA does,
and `decode(encode(text)) == text` for every string that UTF-8 can hold: whitespace is never normalised and
what has no piece is spelled in bytes. All of them have

    bos, eos      ids that begin and end a document
    prefix        ids that the model expects before a document: (bos,), or () if it never saw one there
    vocab_size    one more than the largest id
    specials      names of control tokens and their ids; `encode` takes them for text unless it is told
    kind, files   what to write down of it: a name, and contents by file name
"""

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sentencepiece
from etils import epath

from lwm import bounds, json_text
from lwm.data.manifest import MANIFEST, load_manifest, write_whole
from lwm.data.tokenizer_json import JsonTokenizer
from lwm.errors import UserError

BOS, EOS = 1, 2
_SPACE_MARK = "\u2581"  # SentencePiece writes a space as this character, so the character itself needs bytes.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")  # the first one there counts
SPARE = 1024  # rows that a model's table may have beyond the ids of its tokenizer
_CHUNK = 2000  # characters in a training "sentence"


class ByteTokenizer:
    """One id a UTF-8 byte: id = byte + 3."""

    kind, files, specials = "bytes", {}, {}
    bos, eos, prefix, vocab_size = BOS, EOS, (BOS,), 259

    def encode(self, text: str, specials: bool = False) -> list[int]:
        return (np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32) + 3).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; ids below 3 are dropped, bytes that are no UTF-8 become U+FFFD."""
        return bytes(int(i) - 3 for i in ids if 3 <= i < 259).decode("utf-8", errors="replace")


class SentencePieceTokenizer:
    """A SentencePiece model with byte fallback. `model` is the content of a `.model` file.

    Raises UserError unless the model has LLaMA's special ids (unknown 0, begin 1, end 2) and byte pieces.
    """

    kind, specials = "sentencepiece", {}
    bos, eos, prefix = BOS, EOS, (BOS,)

    def __init__(self, model: bytes, name: str = "tokenizer"):
        self.files = {"tokenizer.model": model}
        try:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, ValueError):
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

    def encode(self, text: str, specials: bool = False) -> list[int]:
        first, *rest = text.split(_SPACE_MARK)
        ids = self._pieces.encode(first)
        for part in rest:
            ids += self._mark + self._pieces.encode(part)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self._pieces.decode([int(i) for i in ids if i > EOS])


Tokenizer = ByteTokenizer | SentencePieceTokenizer | JsonTokenizer


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
    """Returns the tokenizer of a data folder, of the workdir of a converted model, or of a file.

    A folder's tokenizer is its tokenizer.json, else its tokenizer.model, else (in a data folder) bytes. The
    content of a file decides what it is; a tokenizer_config.json is read beside a tokenizer.json.

    Raises UserError if `path` is none of these.
    """
    path = epath.Path(path)
    if path.is_dir():
        found = [path / name for name in TOKENIZER_FILES if (path / name).exists()]
        if not found and (path / MANIFEST).exists() and load_manifest(path)["tokenizer"] == "bytes":
            return ByteTokenizer()
        path = found[0] if found else path / TOKENIZER_FILES[-1]
    if not path.exists():
        raise UserError(
            f"tokenizer: {path} does not exist; give a tokenizer.json, a SentencePiece .model file or a "
            "folder that has one"
        )
    if (size := path.stat().length) > bounds.TOKENIZER:
        raise UserError(
            f"tokenizer: {path} has {size} bytes, more than {bounds.TOKENIZER}; give another file"
        )
    content = path.read_bytes()
    if not content.startswith(b"{"):
        return SentencePieceTokenizer(content, str(path))
    return JsonTokenizer(content, str(path), _settings(path.parent / "tokenizer_config.json"))


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, name: epath.PathLike) -> None:
    """Raises UserError unless a model with so many ids can have been trained with this tokenizer.

    Its table may have some spare rows at the end (it is often rounded up), but none may be missing.
    """
    if not vocab_size - SPARE <= tokenizer.vocab_size <= vocab_size:
        raise UserError(
            f"tokenizer: {name} has {tokenizer.vocab_size} ids, but the model's vocabulary has {vocab_size}; "
            "give the tokenizer that the model was trained with"
        )


def _settings(path: epath.Path) -> dict:
    try:
        settings = json_text.read(path) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"tokenizer: {path} is no JSON ({error}); mend or remove it") from error
    return settings if isinstance(settings, dict) else {}


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
