"""The batches of a stage of documents of text and pictures, for a DreamLLM."""

from typing import Any

import numpy as np
from etils import epath

from lwm.errors import UserError
from lwm.limits import suggest
from lwm.training.stages import Stage

Arrays = dict[str, tuple[tuple[int, ...], Any]]


def page_arrays(stage: Stage, config: Any, ring: int) -> Arrays:
    """What a row has beside its tokens: {name: (shape, dtype)}."""
    count, side, decoder = stage.row_frames(ring), config.vision.resolution, config.decoder
    arrays: Arrays = {
        "places": ((stage.context_length,), np.int32),
        "frames": ((count, side, side, 3), np.uint8),
        "frame_weights": ((count,), np.float32),
    }
    if stage.of_captions:
        arrays["captions"] = (count, decoder.text_length), np.int32
    if decoder.latents:
        shape = count, decoder.resolution, decoder.resolution, decoder.image_channels
        arrays["features"] = shape, np.float32
    return arrays


def check_page_data(stage: Stage, manifest: dict, config: Any) -> None:
    """Checks that the data folder has what a stage asks for, and that the model can read it.

    Args:
      manifest: data.json, see `lwm.data.interleaved_preparation`.

    Raises:
      UserError: naming the field, its value and the fix.
    """
    where, known = f"config.stages.{stage.name}", manifest.get("pages", {})
    if not known:
        raise UserError(
            f"{where}.images: {stage.images}, but the data folder holds no documents with pictures; make one "
            "by python -m lwm.prepare --pages"
        )
    for source in (source for source, weight in stage.mixture.items() if weight):
        if source not in known:
            raise UserError(
                f"{where}.mixture.{source}: the data folder has no source of that name; "
                f"{suggest(source, list(known))}"
            )
        for split in ("train", "heldout") if stage.eval_every else ("train",):
            if not known[source].get(split, {}).get("documents"):
                raise UserError(
                    f"{where}.mixture.{source}: no document in split {split!r}; add some or leave it out"
                )
    if config.decoder.latents:
        raise UserError(
            "config.model.decoder.latents: True, but data folders hold pixels; use a decoder of pixels"
            " (lwm.compile takes such a model as it is)"
        )
    if stage.of_captions and config.decoder.text_vocab_size < manifest["vocab_size"]:
        raise UserError(
            f"config.model.decoder.text_vocab_size: {config.decoder.text_vocab_size}, but the data folder "
            f"uses {manifest['vocab_size']} ids; use that or more"
        )
    for field, value, needed in (
        ("vision.resolution", config.vision.resolution, manifest["resolution"]),
        ("dream_start", config.dream_start, manifest["vocab_size"]),
    ):
        if value != needed:
            raise UserError(f"config.model.{field}: {value}, but the data folder has {needed}; use {needed}")


def open_page_batches(stage: Stage, data_dir: epath.PathLike, *, config: Any, **common: Any) -> Any:
    """See `inputs.open_batches`, whose arguments `common` are."""
    from lwm.data.interleaved_batches import make_page_batches
    from lwm.data.picture_moves import Moves

    return make_page_batches(
        data_dir,
        forms=stage.forms,
        images=stage.images,
        queries=config.queries,
        patches=config.vision.patches,
        drawing=stage.vision_weight > 0,
        captions=config.decoder.text_length if stage.of_captions else 0,
        moves=Moves(stage.shift, stage.mirror),
        **common,
    )
