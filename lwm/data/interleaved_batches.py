"""Batches of documents of text and pictures: rows of a mixture of sources, as of `pipeline`.

Beside the arrays of `pipeline.make_batches`, [B, T] with B = batch_size / process_count:

    places          int32 [B, T], which tokens stand for which part of which picture (`lwm.models.dreamllm`)
    frames          uint8 [B, I, R, R, 3], pictures of a row, then black ones; not in the order of the ring
    frame_weights   float32 [B, I], weights of the pictures in the loss of denoising, 0 = not drawn
    captions        int32 [B, I, S], begin of text and the text before each picture; 0 = padding, no picture

With pictures to be drawn the last slots of every row are a segment of its own that stands for no condition.
"""

import logging
import zlib
from collections.abc import Mapping, Sequence

import grain
import numpy as np
from etils import epath

from lwm.data.interleaved_forms import FORMS
from lwm.data.interleaved_pieces import Marks, Piece, count_split, pieces_of
from lwm.data.interleaved_records import PageRecord, page_sizes, pages
from lwm.data.interleaved_rows import Room, nothing, page_row
from lwm.data.manifest import load_manifest
from lwm.data.picture_moves import STILL, Moves, moved
from lwm.data.pipeline import Batches, check_batch
from lwm.data.streams import shuffled
from lwm.data.tokenizers import load_tokenizer
from lwm.errors import UserError
from lwm.parallel.layout import zigzag_order


def make_page_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    mixture: Mapping[str, float],
    forms: Mapping[str, str],
    context_length: int,
    images: int,
    queries: int,
    patches: int,
    drawing: bool,
    captions: int = 0,
    moves: Moves = STILL,
    batch_size: int,
    seed: int,
    ring: int = 1,
    stripe: int = 0,
    weighting: str = "example",
    process_index: int = 0,
    process_count: int = 1,
    repeat: bool = True,
) -> "PageBatches":
    """Returns the batches that this module describes, of a folder made by `prepare_pages`.

    Documents that are longer than a row, or have more pictures than it, are split at their pictures, with
    nothing lost; how many that are is logged as a warning.

    Args:
      split: "train" or "heldout".
      mixture: share of the rows by source.
      forms: what becomes of the documents of a source, see `interleaved_forms`; "joint" if it is not named.
      images: pictures of a row, at most; I is that, filled up to a multiple of `ring`.
      queries, patches: Q and P of the model.
      captions: S; 0 = there are no captions.
      moves: what is done to a picture of training each time it is read; held-out ones stay as they are.
      drawing: whether pictures are drawn at all, so that rows need what stands for no condition.
      context_length, batch_size, seed, ring, stripe, weighting, process_index, process_count, repeat: as in
        `pipeline.make_batches`.

    Raises:
      UserError: naming the argument, if something does not fit together or is not in `data_dir`.
    """
    manifest = load_manifest(data_dir)
    mixture = {source: weight for source, weight in mixture.items() if weight}
    check_batch(context_length, batch_size, ring, stripe, weighting, process_count)
    _check(manifest, split, mixture, forms)
    marks = Marks.of(load_tokenizer(data_dir), queries, patches)
    spare = nothing(marks, 0).example.slots if drawing else 0
    room = Room(context_length - spare, spare, images, -(-images // ring) * ring, captions)
    used = [forms.get(source, "joint") for source in mixture]
    needed = max(map(marks.block, used)) + spare + 1
    if images < 1 or room.slots < needed - spare:
        raise UserError(
            f"context_length: {context_length} does not hold a picture of {marks.queries} queries and "
            f"{marks.patches} patches; give {needed} or more, and images of 1 or more"
        )
    if moves.shift >= manifest["resolution"]:
        raise UserError(
            f"shift: {moves.shift} moves pictures of {manifest['resolution']} pixels out of sight; use less"
        )
    documents = {source: pages(data_dir, source, split) for source in mixture}
    if process_index == 0 and split == "train":
        for source in mixture:
            _tell(data_dir, source, split, forms.get(source, "joint"), marks, room)
    rows = batch_size // process_count
    mine = range(process_index * rows, (process_index + 1) * rows)
    lanes = {
        lane: {
            source: PageStream(
                documents[source],
                forms.get(source, "joint"),
                marks,
                room,
                moves=moves if split == "train" else STILL,
                name=source,
                seed=seed,
                lane=lane,
                lanes=batch_size,
                repeat=repeat,
            )
            for source in mixture
        }
        for lane in (mine if repeat else range(batch_size))
    }
    order = zigzag_order(context_length, ring, stripe)
    return PageBatches(
        lanes, mine, mixture, batch_size, seed, order, weighting, marks, room, manifest["resolution"]
    )


class PageStream:
    """One lane's documents of one source, piece by piece.

    lane, lanes, name, seed, repeat: as of `streams.Stream`.
    """

    def __init__(
        self,
        documents: Sequence[PageRecord],
        form: str,
        marks: Marks,
        room: Room,
        *,
        moves: Moves,
        name: str,
        seed: int,
        lane: int,
        lanes: int,
        repeat: bool,
    ):
        self._entropy = (seed, zlib.crc32(name.encode()))
        self._order = grain.MapDataset.range(len(documents))
        if repeat:
            self._order = shuffled(len(documents), seed=sum(self._entropy) % 2**32)
        self._documents, self._form, self._marks, self._room = documents, form, marks, room
        self._moves = moves
        self._lane, self._lanes = lane, lanes
        self._visit, self._piece = 0, 0
        self._open: tuple[int, list[Piece]] = (-1, [])

    @property
    def ended(self) -> bool:
        return self._number >= len(self._order)

    def take(self, slots: int, images: int) -> Piece | None:
        """Returns the next piece if it goes into so many free slots and pictures; else None."""
        if self.ended:
            return None
        if self._open[0] != self._number:
            self._open = self._number, self._pieces()
        piece = self._open[1][self._piece]
        if piece.example.slots > slots or len(piece.images) > images:
            return None
        self._piece += 1
        if self._piece == len(self._open[1]):
            self._visit, self._piece = self._visit + 1, 0
        return piece

    def get_state(self) -> list[int]:
        return [self._visit, self._piece]

    def set_state(self, state: list[int]) -> None:
        self._visit, self._piece = state

    @property
    def _number(self) -> int:
        return self._lane + self._lanes * self._visit

    def _pieces(self) -> list[Piece]:
        page = self._documents[self._order[self._number]]
        rng = np.random.default_rng((*self._entropy, self._number))
        coin = bool(rng.random() < 0.5)
        if self._moves != STILL:
            page = page._replace(images=moved(page.images, self._moves, rng))
        room = {"slots": self._room.slots, "images": self._room.images}
        return pieces_of(page, self._form, self._marks, **room, coin=coin)


class PageBatches(Batches):
    """An iterator of batches with a JSON-able state; made by `make_page_batches`."""

    def __init__(
        self,
        lanes: dict[int, dict[str, PageStream]],
        mine: range,
        mixture: Mapping[str, float],
        batch_size: int,
        seed: int,
        order: np.ndarray,
        weighting: str,
        marks: Marks,
        room: Room,
        resolution: int,
    ):
        super().__init__(lanes, mine, mixture, room.slots, batch_size, seed, order, weighting)
        self._marks, self._room, self._resolution = marks, room, resolution

    def _filled(self, stream: PageStream) -> dict[str, np.ndarray]:
        pieces, slots, images = [], self._room.slots, self._room.images
        while (piece := stream.take(slots, images)) is not None:
            pieces.append(piece)
            slots, images = slots - piece.example.slots, images - len(piece.images)
        row = page_row(pieces, self._marks, self._room, self._resolution, self._weighting)
        beside = ("frames", "frame_weights", "captions")
        return {name: array if name in beside else array[self._order] for name, array in row.items()}


def _tell(data_dir, source, split, form, marks, room) -> None:
    sizes = page_sizes(data_dir, source, split)
    count = count_split(sizes, form, marks, slots=room.slots, images=room.images)
    if count:
        logging.getLogger(__name__).warning(
            "%s: %d of %d documents are longer than %d slots or have more than %d pictures; they are split "
            "at their pictures, nothing is lost",
            source,
            count,
            len(sizes),
            room.slots,
            room.images,
        )


def _check(manifest, split, mixture, forms) -> None:
    known = manifest.get("pages", {})
    if not mixture or min(mixture.values()) < 0:
        raise UserError(
            f"mixture: {dict(mixture)} has no source of positive weight; give a share of {list(known)}"
        )
    for source in mixture:
        if source not in known:
            raise UserError(f"mixture: there is no source {source!r} of pages; the data has {list(known)}")
        if not known[source].get(split, {}).get("documents"):
            raise UserError(
                f"mixture: source {source!r} has no {split} documents; choose another split or source"
            )
    for source, form in forms.items():
        if form not in FORMS:
            raise UserError(f"forms.{source}: {form!r} is no form; choose from {', '.join(FORMS)}")
