"""The work of `python -m lwm.prepare`: a user's folder in, a data folder out; resumable, never half-written.

First everything that can fail on a wrong setting, in memory: look at the input, compare with what the output
folder was begun with, train the tokenizer, load the encoder. Then the writing: tokenizer, frames, text
documents, codes, vision documents and, at the end, data.json.
"""

import os
from collections.abc import Callable

import numpy as np
from etils import epath

from lwm.data import assembly, datasets, manifest, media, progress, splits, tokenizers
from lwm.data.inputs import SPLITS, Item, read_parts, scan
from lwm.data.workers import Workers
from lwm.errors import UserError

Encode = Callable[[np.ndarray], np.ndarray]
_DECODING = ("resolution", "fps", "max_frames", "heldout", "views", "seed")  # settings the frames depend on


def prepare(
    *,
    input: str,
    output: epath.PathLike,
    tokenizer: str = "train",
    vocab_size: int = 8192,
    resolution: int = 256,
    fps: float = 4.0,
    heldout: float = 0.1,
    max_frames: int = 0,
    max_caption: int = 0,
    views: int = 1,
    seed: int = 0,
    vqgan: str | None = None,
    load_encoder: Callable[[str], tuple[Encode, int]] | None = None,
    track: progress.Track = progress.lines,
    workers: Workers | None = None,
) -> dict:
    """Makes the data folder `output` from the folder `input`, or goes on with it, and returns its data.json.

    Without `vqgan`: frames, tokenizer and the sources that are text alone. With it (now or in a later call)
    also the sources with vision; `load_encoder(vqgan) -> (encode, codes)` is called when there is something
    to encode, with encode: uint8 [F, R, R, 3] -> int [F, P] and codes the size of the codebook. `workers`
    decode, tokenize and write, if there are any; the folder is the same as without. Other arguments: the
    verb's flags.

    Raises UserError for settings that make no sense or differ from those `output` was begun with, a folder
    without any usable file, a tokenizer that does not fit. Broken files and lines are listed in data.json
    under "broken".
    """
    _check(input, output, resolution, fps, heldout, tokenizer)
    output, inventory = epath.Path(output), scan(input)
    if not inventory.items:
        raise UserError(_nothing_usable(input, inventory.broken))
    settings = {
        "input": os.path.abspath(input),
        "files": inventory.fingerprint,
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "resolution": resolution,
        "fps": fps,
        "heldout": heldout,
        "max_frames": max_frames,
        "max_caption": max_caption,
        "views": views,
        "seed": seed,
        "vqgan": os.path.abspath(vqgan) if vqgan else None,
    }
    record = manifest.open_record(output, settings)
    if (output / manifest.MANIFEST).exists():
        done = manifest.load_manifest(output)
        if settings["vqgan"] in (None, done["vqgan"]):
            return done
    items = splits.assign_splits(inventory.items, heldout, seed)
    ids = _make_tokenizer(input, output, items, tokenizer, vocab_size)
    encode, codes = load_encoder(vqgan) if vqgan and any(item.media for item in items) else (None, 0)

    with manifest.writing_to(output):
        _begin(output, record, ids)
        _store_media(input, output, record, items, inventory.broken, track, workers)
        usable = [item for item in items if item.media is None or item.media in record["media"]]
        kept, dropped, longest = assembly.fitting(input, usable, ids, max_caption)
        sources = dict.fromkeys(item.source for item in kept)
        pictured = {item.source for item in kept if item.has_vision}
        built, codes_per_frame = [source for source in sources if source not in pictured], None
        shown = media.with_views(kept, record["media"])
        if encode:
            wanted = frozenset(item.media for item in shown if item.has_vision)
            codes_per_frame = media.encode_media(output, record["media"], wanted, encode, track)
            built += [source for source in sources if source in pictured]
        for source in built:
            mine = [item for item in shown if item.source == source]
            assembly.store_documents(input, output, source, mine, record["media"], ids, codes, track, workers)
        done = {
            "tokenizer": ids.kind,
            "vocab_size": ids.vocab_size,
            "bos": ids.bos,
            "eos": ids.eos,
            "vision_start": ids.encode("<vision>"),
            "vision_end": ids.encode("</vision>"),
            "resolution": resolution,
            "fps": fps,
            "codes": codes or None,
            "codes_per_frame": codes_per_frame,
            "eof": codes or None,
            "eov": codes + 1 if codes else None,
            "vqgan": settings["vqgan"],
            "sources": {source: assembly.count_documents(output, source) for source in built},
            "longest_text": {source: longest[source] for source in built if source in longest},
            "frames": {split: sum(by.get(split, 0) for by in record["media"].values()) for split in SPLITS},
            "broken": [list(pair) for pair in (*inventory.broken, *record["broken"], *dropped)],
        }
        manifest.write_json(output / manifest.MANIFEST, done)
        _remove(output / "partial")
    return done


def _check(
    input: str, output: epath.PathLike, resolution: int, fps: float, heldout: float, tokenizer: str
) -> None:
    if not os.path.isdir(input):
        raise UserError(f"input: {input} is not a folder; give the folder with your videos, images and text")
    if os.path.commonpath([os.path.realpath(input), os.path.realpath(output)]) == os.path.realpath(input):
        raise UserError(f"output: {output} lies in the input folder {input}; choose a folder outside of it")
    if resolution < 1:
        raise UserError(f"resolution: {resolution} is not a size in pixels; give 64, 256, …")
    if not 0 <= fps < 1000:
        raise UserError(f"fps: {fps} is not a frame rate; give frames a second, or 0 for every frame")
    if not 0 <= heldout <= 0.5:
        raise UserError(f"heldout: {heldout} is not a share from 0 to 0.5; give for example 0.1")
    if tokenizer not in ("bytes", "train") and not os.path.isfile(tokenizer):
        raise UserError(f"tokenizer: {tokenizer} is neither bytes, train nor a file; give one of them")


def _nothing_usable(input: str, broken: list) -> str:
    found = f"{len(broken)} broken, the first: {broken[0][0]} {broken[0][1]}" if broken else "none found"
    return f"input: {input} has no usable video, image, .txt, .md or .jsonl file ({found}); add one"


def _make_tokenizer(
    input: str, output: epath.Path, items: list[Item], kind: str, vocab_size: int
) -> tokenizers.Tokenizer:
    """The stored tokenizer, bytes, a given one, or one trained on text not held out; bytes without text."""
    for name in tokenizers.TOKENIZER_FILES:
        if (output / name).exists():
            return tokenizers.load_tokenizer(output / name)
    if kind not in ("bytes", "train"):
        return tokenizers.load_tokenizer(kind)
    if kind == "bytes" or all(item.path == item.media for item in items):
        return tokenizers.ByteTokenizer()
    texts = (text for item in items if item.split != "heldout" for text in read_parts(input, item).values())
    return tokenizers.train_sentencepiece(texts, vocab_size)


def _begin(output: epath.Path, record: dict, ids: tokenizers.Tokenizer) -> None:
    """Starts writing; clears what an interrupted TFDS write has left."""
    output.mkdir(parents=True, exist_ok=True)
    for folder in ("frames", "documents/*"):
        for left in output.glob(f"{folder}/incomplete.*"):
            left.rmtree()
    manifest.write_json(output / manifest.RECORD, record)
    # The settings before the tokenizer itself: once that is there, nothing of it is written again.
    for name, content in sorted(ids.files.items(), reverse=True):
        if not (output / name).exists():
            manifest.write_whole(output / name, content)


def _store_media(
    input: str,
    output: epath.Path,
    record: dict,
    items: list[Item],
    broken: list,
    track: progress.Track,
    workers: Workers | None,
) -> None:
    """Fills record["media"] and record["broken"]; takes everything back if nothing at all is usable."""
    if record["media"] is not None:
        return
    _remove(datasets.frames_dir(output))
    asked = {item.media: item.split for item in items if item.media}
    options = {name: record["settings"][name] for name in _DECODING}
    record["media"], record["broken"] = media.store_frames(
        input, output, asked, track=track, workers=workers, **options
    )
    if not record["media"] and all(item.media for item in items):
        output.rmtree()
        raise UserError(_nothing_usable(input, [*record["broken"], *broken]))
    manifest.write_json(output / manifest.RECORD, record)
    _remove(output / "partial")


def _remove(folder: epath.Path) -> None:
    if folder.exists():
        folder.rmtree()
