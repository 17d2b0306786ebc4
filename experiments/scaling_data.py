"""The data of experiments/scaling.py: three modalities as streams of ids, by tokenizers of several kinds.

text     Shakespeare's plays and the English Bible, by bytes or by byte-pair encoding of 512 to 4,096 pieces
image    Tux Paint's stamps in tiles of 32 x 32 pixels, by k-means codes for patches of 1, 2 or 4 pixels
audio    Asterisk's prompts at 8 kHz, companded by the mu-law (G.711's curve), by levels or by k-means codes
         for blocks of four samples

Every eighth play, stretch of verses, stamp and prompt is held out, and of these the same raw bytes are read
with every tokenizer. Codebooks and pieces are learned from what is not held out. Tiles of a single colour,
which are the paper around a stamp, are left out.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from experiments import needle_corpus
from lwm.data.task_sources.prompts import read_prompts
from lwm.data.task_sources.reading import Reading
from lwm.data.task_sources.verses import read_verses
from lwm.data.tokenizers import ByteTokenizer, train_sentencepiece
from lwm.data.video import open_on_white
from lwm.scaling.compression import Compression, measure

VOCABULARIES = {  # ids of each tokenizer; the first of a modality is that of its grid
    "text": {"bpe512": 512, "bytes": 259, "bpe1024": 1024, "bpe4096": 4096},
    "image": {"patch2_256": 256, "patch1_256": 256, "patch4_256": 256, "patch2_64": 64, "patch2_1024": 1024},
    "audio": {"mulaw256": 256, "mulaw64": 64, "block4_256": 256},
}
HELDOUT_EVERY = 8
TILE, PIECE = 32, 1024  # pixels a side; characters, or samples
HELD = 64  # tiles or pieces that are read to measure a loss
VERSES = 400  # of a stretch
_MU, _FULL = 255.0, 2.0**15
_LEARNED = 20_000  # blocks that a codebook is learned from


class Corpus(NamedTuple):
    """Items of one modality: texts, tiles uint8 [32, 32, 3] or sounds int16 [samples]."""

    train: list
    heldout: list


@dataclasses.dataclass(frozen=True)
class Codes:
    """Blocks of samples, each written as the nearest row of a codebook.

    codebook: float32 [ids, samples of a block]. fold: item -> blocks. unfold: blocks -> item.
    """

    codebook: np.ndarray
    fold: Callable[[np.ndarray], np.ndarray]
    unfold: Callable[[np.ndarray], np.ndarray]

    def encode(self, item: np.ndarray) -> np.ndarray:
        from scipy.cluster.vq import vq

        return vq(self.fold(item), self.codebook)[0]

    def decode(self, ids: np.ndarray) -> np.ndarray:
        return self.unfold(self.codebook[ids])


def read_text(sources: str) -> Corpus:
    train, heldout = needle_corpus.plays()
    verses = [record.target for record in read_verses(Reading(sources))]
    stretches = ["\n".join(verses[start : start + VERSES]) for start in range(0, len(verses), VERSES)]
    more = _split(stretches)
    return Corpus(train + more.train, _pieces(heldout + more.heldout, HELD))


def read_image(sources: str) -> Corpus:
    root = Reading(sources).find("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps")
    stamps = _split([path for path in sorted(root.rglob("*.png")) if path.with_suffix(".txt").exists()])
    train, heldout = ([tile for path in paths for tile in _tiles(path)] for paths in stamps)
    return Corpus(train, _spread(heldout, HELD))


def read_audio(sources: str) -> Corpus:
    prompts = _split([record.waveform for record in read_prompts(Reading(sources))])
    whole = [sound[: len(sound) // 4 * 4] for sound in prompts.train]
    return Corpus(whole, _pieces(prompts.heldout, HELD))


READERS = {"text": read_text, "image": read_image, "audio": read_audio}


def make_tokenizer(modality: str, name: str, items: Sequence):
    """What has `encode` and `decode`, learned from items that are not held out."""
    ids = VOCABULARIES[modality][name]
    if name == "bytes":
        return ByteTokenizer()
    if modality == "text":
        return train_sentencepiece(items, ids)
    if name.startswith("mulaw"):
        levels = np.linspace(-1, 1, ids, dtype=np.float32)[:, None]
        return Codes(levels, lambda sound: compand(sound)[:, None], lambda blocks: expand(blocks[:, 0]))
    if modality == "audio":
        return _learned(
            items, ids, lambda sound: compand(sound).reshape(-1, 4), lambda x: expand(x.reshape(-1))
        )
    side = int(name.removeprefix("patch").partition("_")[0])
    return _learned(items, ids, lambda tile: patches(tile, side), lambda blocks: tile_of(blocks, side))


def compand(sound: np.ndarray) -> np.ndarray:
    """int16 [samples] -> float32 in [-1, 1] by the mu-law: steps as fine as the sound is soft."""
    x = sound / _FULL
    return (np.sign(x) * np.log1p(_MU * np.abs(x)) / np.log1p(_MU)).astype(np.float32)


def expand(companded: np.ndarray) -> np.ndarray:
    """The inverse of `compand`."""
    x = np.sign(companded) * np.expm1(np.abs(companded) * np.log1p(_MU)) / _MU
    return np.clip(np.round(x * _FULL), -_FULL, _FULL - 1).astype(np.int16)


def patches(tile: np.ndarray, side: int) -> np.ndarray:
    """uint8 [R, R, 3] -> float32 [(R / side)^2, 3 side^2], row by row."""
    R = len(tile) // side
    return tile.reshape(R, side, R, side, 3).swapaxes(1, 2).reshape(R * R, -1).astype(np.float32)


def tile_of(blocks: np.ndarray, side: int) -> np.ndarray:
    """The inverse of `patches`."""
    R = round(len(blocks) ** 0.5)
    pixels = np.clip(np.round(blocks), 0, 255).astype(np.uint8)
    return pixels.reshape(R, R, side, side, 3).swapaxes(1, 2).reshape(R * side, R * side, 3)


def encode(corpus: Corpus, modality: str, name: str, most: int) -> tuple[np.ndarray, np.ndarray, Compression]:
    """Ids to train on (of items in random order, `most` at least if there are so many), held out, and T, C.

    T and C are those of the held-out items.
    """
    tokenizer = make_tokenizer(modality, name, corpus.train)
    found, count = [], 0
    for index in np.random.default_rng(0).permutation(len(corpus.train)):
        if count >= most:
            break
        found.append(np.asarray(tokenizer.encode(corpus.train[index]), np.int32))
        count += len(found[-1])
    heldout = np.concatenate([np.asarray(tokenizer.encode(item), np.int32) for item in corpus.heldout])
    about = measure(name, corpus.heldout, tokenizer.encode, tokenizer.decode)
    return np.concatenate(found), heldout, about


def _learned(items: Sequence, ids: int, fold: Callable, unfold: Callable) -> Codes:
    """The codebook by k-means, of blocks from items in random order."""
    from scipy.cluster.vq import kmeans2

    rng = np.random.default_rng(0)
    some = [items[index] for index in rng.permutation(len(items))[:500]]
    blocks = np.concatenate([fold(item) for item in some])
    blocks = blocks[rng.permutation(len(blocks))[:_LEARNED]]
    return Codes(kmeans2(blocks, ids, minit="++", rng=rng)[0].astype(np.float32), fold, unfold)


def _tiles(path: pathlib.Path) -> Iterable[np.ndarray]:
    pixels = np.asarray(open_on_white(str(path)))
    for top in range(0, pixels.shape[0] - TILE + 1, TILE):
        for left in range(0, pixels.shape[1] - TILE + 1, TILE):
            tile = pixels[top : top + TILE, left : left + TILE]
            if (tile != tile[0, 0]).any():
                yield tile


def _split(items: Sequence) -> Corpus:
    return Corpus([item for i, item in enumerate(items) if i % HELDOUT_EVERY], list(items[::HELDOUT_EVERY]))


def _pieces(items: Iterable, count: int) -> list:
    """`count` pieces at even distances through the items."""
    starts = ((item, at) for item in items for at in range(0, len(item) - PIECE, PIECE))
    return _spread([item[at : at + PIECE] for item, at in starts], count)


def _spread(items: list, count: int) -> list:
    return [items[index] for index in np.linspace(0, len(items) - 1, count).astype(int)]
