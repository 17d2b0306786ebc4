"""The work of `python -m lwm.prepare --pages`: documents in, a data folder out; whole, or not at all.

    OUTPUT/data.json            what it holds, as without --pages, with "pages" in place of sources
    OUTPUT/tokenizer.model      unless texts are bytes
    OUTPUT/interleaved_pages    the documents

Everything is made in OUTPUT.part, which is renamed at the end. Pictures that cannot be opened are left out of
their documents, named and counted.
"""

import functools
import hashlib
import math
from collections.abc import Iterator

import numpy as np
from etils import epath

from lwm.data import progress
from lwm.data.inputs import SPLITS
from lwm.data.interleaved import Page, Shown, manifests, read_pages
from lwm.data.interleaved_records import PageRecord, page_sizes, record_of, write_pages
from lwm.data.manifest import MANIFEST, finished, load_manifest, making, write_json
from lwm.data.recipes import Recipe
from lwm.data.splits import heldout_names
from lwm.data.task_sources.reading import stop
from lwm.data.task_sources.stamps import on_square
from lwm.data.tokenizers import ByteTokenizer, Tokenizer, train_sentencepiece
from lwm.data.video import BrokenMedia
from lwm.data.workers import Workers
from lwm.errors import UserError


def prepare_pages(
    *,
    input: str,
    output: epath.PathLike,
    resolution: int,
    vocab_size: int = 0,
    heldout: float = 0.1,
    min_similarity: float | None = None,
    seed: int = 0,
    skip_broken: bool = False,
    track: progress.Track = progress.lines,
    workers: Workers | None = None,
) -> dict:
    """Makes the folder `output` from the manifests in the folder `input` and returns its data.json.

    Beside the keys of `load_manifest`: pages ({source: {split: {documents, tokens, images}}}), dissimilar
    (pictures left out), settings. broken lists [name, reason].

    Args:
      resolution: side of the pictures in pixels; all of a picture is kept, on white.
      vocab_size: pieces of a vocabulary that is trained on what is not held out; 0 = bytes.
      heldout: share of the groups of each source that have no split to be held out.
      min_similarity: see `read_pages`.
      seed: of what is held out.
      skip_broken: leave lines and pictures that are wrong out and list them; else stop at the first.
      workers: where texts are tokenized and pictures opened; None = here.

    Raises:
      UserError: a setting that makes no sense, an `output` that is something else or of other files, a
        broken line.
    """
    settings = {
        "resolution": resolution,
        "vocab_size": vocab_size,
        "heldout": heldout,
        "min_similarity": min_similarity,
        "seed": seed,
    }
    if resolution < 1:
        raise UserError(f"resolution: {resolution} is no side of a picture; use for example 32")
    if not 0 <= heldout < 1:
        raise UserError(f"heldout: {heldout} is no share; use 0 or more and less than 1")
    if min_similarity is not None and not math.isfinite(min_similarity):
        raise UserError(f"min_similarity: {min_similarity} leaves out all or nothing; use for example 0.25")
    output = epath.Path(output)
    done = finished(output, MANIFEST, load_manifest, settings)
    broken: list[tuple[str, str]] = []

    def note(error: UserError) -> None:
        line, field, reason = str(error).split(": ", 2)
        broken.append((f"{line}: {field}", reason))

    found = read_pages(input, min_similarity=min_similarity, broken=note if skip_broken else stop)
    if not found.pages:
        first = f"{len(broken)} broken, the first: {' '.join(broken[0])}" if broken else "none found"
        raise UserError(f"input: the manifests in {input} have no document ({first}); write or mend one")
    files = _fingerprint(input, found.pages)
    if done:
        if done["settings"].get("files", files) != files:
            raise UserError(
                f"input: the files of {input} are not those that {output} was made from; restore them or "
                "choose another --output"
            )
        return done
    by_split = _by_split(found.pages, heldout, seed)
    learned = (text for own in by_split.values() for page in own.get("train", ()) for text in page.texts)
    tokenizer = train_sentencepiece(learned, vocab_size) if vocab_size else ByteTokenizer()
    with making(output) as draft:
        for name, content in tokenizer.files.items():
            (draft / name).write_bytes(content)
        counts = {}
        for source, own in by_split.items():
            recipes = {
                split: Recipe(
                    pages,
                    functools.partial(_records, tokenizer=tokenizer, resolution=resolution),
                    shown=lambda items, label=f"{source} ({split})": track(
                        items, label, len(items), "documents"
                    ),
                )
                for split, pages in own.items()
            }
            counts[source] = write_pages(draft, source, recipes, resolution=resolution, workers=workers)
            for split, pages in own.items():
                broken += _left_out(pages, page_sizes(draft, source, split)[:, 1], resolution)
        done = _about(tokenizer, resolution) | {
            "pages": counts,
            "dissimilar": found.dissimilar,
            "broken": broken,
            "settings": settings | {"files": files},
        }
        write_json(draft / MANIFEST, done)
    return done


def _fingerprint(folder: str, found: list[Page]) -> str:
    """Stands for what the manifests say and for the sizes of the pictures."""
    digest = hashlib.sha256()
    for manifest in manifests(folder):
        content = manifest.read_bytes()
        digest.update(f"{manifest.name} {len(content)}\n".encode() + content)
    for image in (image for page in found for image in page.images):
        digest.update(f"{image.name} {image.path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _by_split(found: list[Page], heldout: float, seed: int) -> dict[str, dict[str, list[Page]]]:
    """{source: {split: pages}}; splits without a page are left out."""
    by_source: dict[str, dict[str, list[Page]]] = {}
    loose = {source: set() for source in dict.fromkeys(page.source for page in found)}
    for page in found:
        if page.split is None:
            loose[page.source].add(page.group)
    # A group that several sources show is in one split in all of them.
    held = frozenset().union(*(heldout_names(groups, heldout, seed) for groups in loose.values()))
    for page in found:
        split = page.split or ("heldout" if page.group in held else "train")
        by_source.setdefault(page.source, {}).setdefault(split, []).append(page)
    return {
        source: {split: own[split] for split in SPLITS if split in own} for source, own in by_source.items()
    }


def _records(page: Page, *, tokenizer: Tokenizer, resolution: int) -> Iterator[dict]:
    """The one record of a page, without pictures that cannot be opened."""
    ids = [np.asarray(tokenizer.encode(text), np.int32) for text in page.texts]
    shown = list(_opened(page.images, resolution, []))
    images = [pixels for _, pixels in shown]
    yield record_of(
        PageRecord(
            name=page.name,
            tokens=np.concatenate(ids),
            lengths=np.asarray([len(one) for one in ids], np.int32),
            learned=np.asarray(page.learned),
            images=np.stack(images) if images else np.zeros((0, resolution, resolution, 3), np.uint8),
            positions=np.asarray([position for position, _ in shown], np.int32),
        )
    )


def _left_out(pages: list[Page], images: np.ndarray, resolution: int) -> list[tuple[str, str]]:
    """(name, reason) of pictures that are in `pages` but not among those written, so many in each record.

    They are opened once more: whoever wrote them may have been elsewhere.
    """
    broken: list[tuple[str, str]] = []
    for page, written in zip(pages, images, strict=True):
        if written < len(page.images):
            list(_opened(page.images, resolution, broken))
    return broken


def _opened(
    images: tuple[Shown, ...], resolution: int, broken: list[tuple[str, str]]
) -> Iterator[tuple[int, np.ndarray]]:
    for image in images:
        try:
            yield image.position, on_square(image.path, resolution)
        except BrokenMedia as error:
            broken.append((image.name, f"{image.path.name} {error}"))


def _about(tokenizer: Tokenizer, resolution: int) -> dict:
    """What data.json says of any data folder."""
    nothing = ("vision_start", "vision_end", "fps", "codes", "codes_per_frame", "eof", "eov", "vqgan")
    return {
        "tokenizer": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "bos": tokenizer.bos,
        "eos": tokenizer.eos,
        "resolution": resolution,
        "sources": {},
        "longest_text": {},
        "frames": {},
        **dict.fromkeys(nothing),
    }
