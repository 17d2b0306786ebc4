"""Items become Documents: text through the tokenizer, pictures as codes, one TFDS data set a source."""

import functools
from collections.abc import Iterator

import numpy as np
from etils import epath

from lwm.data import datasets, media
from lwm.data.fields import VISION
from lwm.data.inputs import SPLITS, Item, read_parts
from lwm.data.progress import Track
from lwm.data.recipes import Recipe
from lwm.data.tokenizers import Tokenizer
from lwm.data.workers import Workers


def fitting(
    folder: str, items: list[Item], tokenizer: Tokenizer, max_caption: int
) -> tuple[list[Item], list[tuple[str, str]], dict[str, dict]]:
    """Leaves out pictures with more than `max_caption` tokens of text (0: none).

    Returns the rest, (name, reason) of those left out and, for each source, {"tokens", "name"} of the longest
    text beside a picture: what a context must hold together with one frame.
    """
    kept, dropped, longest = [], [], {}
    for item in items:
        if not item.has_vision:
            kept.append(item)
            continue
        tokens = sum(len(tokenizer.encode(text)) for text in read_parts(folder, item).values())
        if max_caption and tokens > max_caption:
            dropped.append((item.name, f"has {tokens} tokens of text, more than max_caption={max_caption}"))
            continue
        kept.append(item)
        if item.source not in longest or tokens > longest[item.source]["tokens"]:
            longest[item.source] = {"tokens": tokens, "name": item.name}
    return kept, dropped, longest


def store_documents(
    folder: str,
    output: epath.Path,
    source: str,
    items: list[Item],
    counts: media.Counts,
    tokenizer: Tokenizer,
    codes: int,
    track: Track,
    workers: Workers | None = None,
) -> None:
    """Writes the Documents of `source`, unless they are there.

    A picture gives a document to each split that it has frames in (`counts`); its codes must have been
    spooled.
    """
    if datasets.documents_dir(output, source).exists():
        return
    by_split = {
        split: [item for item in items if split in (counts[item.media] if item.media else (item.split,))]
        for split in SPLITS
    }
    recipes = {
        split: Recipe(
            mine,
            functools.partial(
                _records, folder=folder, output=output, split=split, tokenizer=tokenizer, codes=codes
            ),
            shown=lambda items, label=f"{source} ({split})": track(items, label, len(items), "documents"),
        )
        for split, mine in by_split.items()
        if mine
    }
    datasets.write_documents(output, source, recipes, workers=workers)


def _records(
    item: Item, *, folder: str, output: epath.Path, split: str, tokenizer: Tokenizer, codes: int
) -> Iterator[dict]:
    """The one record of an item."""
    texts = read_parts(folder, item)
    parts = {name: np.asarray(tokenizer.encode(text), np.int32) for name, text in texts.items()}
    if item.has_vision:
        parts[VISION] = media.frame_tokens(media.load_codes(output, item.media, split), codes)
    yield datasets.record_of(
        datasets.Document(
            names=tuple(parts),
            tokens=np.concatenate(list(parts.values())),
            lengths=np.asarray([len(ids) for ids in parts.values()], np.int32),
            vision=np.asarray([name == VISION for name in parts]),
            fields=item.fields,
            bytes=sum(len(text.encode("utf-8")) for text in texts.values()),
        )
    )


def count_documents(output: epath.Path, source: str) -> dict:
    """Returns {split: {"documents", "tokens", "bytes"}} of a source, read back from what was written."""
    counts = {}
    for split in SPLITS:
        documents = datasets.documents(output, source, split)
        counts[split] = {"documents": len(documents), "tokens": 0, "bytes": 0}
        for document in documents:
            counts[split]["tokens"] += len(document.tokens)
            counts[split]["bytes"] += document.bytes
    return counts
