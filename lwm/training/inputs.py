"""The batches that a stage reads, and the part of each that this host has to make."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lwm.errors import UserError
from lwm.limits import suggest
from lwm.parallel.sharding import BATCH
from lwm.training.page_inputs import check_page_data, open_page_batches, page_arrays
from lwm.training.stages import Stage
from lwm.training.suitability import check_suitability
from lwm.training.task_inputs import check_task_data, open_task_batches, task_shapes

_TOKENS = {
    "tokens": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "segments": np.int32,
    "positions": np.int32,
    "is_vision": np.bool_,
    "targets_are_vision": np.bool_,
}


class HostRows(NamedTuple):
    """Rows [index · B / count, (index + 1) · B / count) of the global batch."""

    index: int
    count: int


def batch_shapes(stage: Stage, config: Any = None, ring: int = 1, ways: int = 1) -> dict[str, Any]:
    """The global batch of one optimizer step, by name; of tasks by kind and name.

    Args:
      config: of the model, for the sizes of images, frames or stored features; None will do for tokens alone.
      ring: devices on "seq", to a multiple of which the frames of clips are filled up.
      ways: devices on "data" and "fsdp", to a multiple of which the rows of each kind of tasks are filled up.

    Raises:
      UserError: the stage and the model do not go together.
    """
    check_suitability(stage, config)
    if stage.of_tasks:
        return task_shapes(stage, config, ways)
    side = getattr(config, "resolution", 0)
    if stage.of_images:
        return {"images": jax.ShapeDtypeStruct((stage.rows, side, side, 3), np.uint8)}
    arrays = {name: ((stage.context_length,), dtype) for name, dtype in _TOKENS.items()}
    if stage.of_pages:
        arrays |= page_arrays(stage, config, ring)
    if stage.of_clips:
        F = stage.row_frames(ring)
        arrays |= {"media": ((stage.context_length,), np.int32), "frame_ids": ((F,), np.int32)}
        if config.encoder_layers:
            arrays["frames"] = (F, side, side, 3), np.uint8
        else:
            arrays["features"] = (F, config.frame_tokens, config.feature_width), jnp.dtype(config.dtype)
    return {
        name: jax.ShapeDtypeStruct((stage.rows, *shape), dtype) for name, (shape, dtype) in arrays.items()
    }


def host_rows(mesh: Mesh, rows: int) -> HostRows:
    """Which rows the devices of this host hold; hosts that share rows (a ring across hosts) make the same.

    Raises:
      ValueError: the mesh scatters them.
    """
    layout = NamedSharding(mesh, PartitionSpec(BATCH))
    spans = {index[0].indices(rows)[:2] for index in layout.addressable_devices_indices_map((rows,)).values()}
    start, stop = min(span[0] for span in spans), max(span[1] for span in spans)
    held = sum(end - begin for begin, end in spans)
    if held != stop - start or rows % held or start % held:
        raise ValueError(f"rows {sorted(spans)} of {rows} are on one host; let data x fsdp follow the hosts")
    return HostRows(start // held, rows // held)


def check_data(stage: Stage, manifest: dict, model_config: Any) -> None:
    """Checks that the data folder has what the stage asks for, and that the model can read it.

    Args:
      manifest: data.json, see `lwm.data.manifest`; of tasks tasks.json, see `lwm.data.task_records`.
      model_config: the config of the model, for the sizes of its tables.

    Raises:
      UserError: naming the field, its value and the fix.
    """
    where = f"config.stages.{stage.name}"
    if stage.of_tasks:
        check_task_data(stage, manifest, model_config)
        return
    if stage.of_pages:
        check_page_data(stage, manifest, model_config)
        return
    if stage.of_images:
        if not (manifest.get("frames") or {}).get("train"):
            raise UserError(
                f"{where}.context_length: 0 asks for images, but the data folder has none; add some"
            )
        _check_resolution(manifest, model_config)
        return
    if stage.of_clips:
        if not model_config.encoder_layers:
            raise UserError(
                "config.model.encoder_layers: 0 reads stored features, and data folders hold frames; use 1 "
                "or more (lwm.compile takes such a model as it is)"
            )
        _check_resolution(manifest, model_config)
    sources = [] if stage.of_clips else [source for source, weight in stage.mixture.items() if weight]
    for source in sources:
        if source not in manifest["sources"]:
            fix = suggest(source, list(manifest["sources"]))
            raise UserError(f"{where}.mixture.{source}: the data folder has no source of that name; {fix}")
        splits = ("train", "heldout") if stage.eval_every else ("train",)
        for split in splits:
            if not manifest["sources"][source].get(split, {}).get("documents"):
                raise UserError(
                    f"{where}.mixture.{source}: no document in split {split!r}; add some or leave it out"
                )
    if manifest["vocab_size"] > model_config.vocab_size:
        raise UserError(
            f"config.model.vocab_size: {model_config.vocab_size}, but the data folder uses "
            f"{manifest['vocab_size']} ids; use {manifest['vocab_size']} or more"
        )
    # Only sources with pictures have an entry there.
    seen = [source for source in sources if source in manifest.get("longest_text", {})]
    if seen and manifest["eov"] >= model_config.vision_vocab_size:
        needed = manifest["eov"] + 1
        raise UserError(
            f"config.model.vision_vocab_size: {model_config.vision_vocab_size}, but source {seen[0]!r} uses "
            f"{needed} codes (with <eof> and <eov>); use {needed} or more, or leave it out of {where}.mixture"
        )


def open_batches(
    stage: Stage,
    data_dir: epath.PathLike,
    *,
    split: str,
    seed: int,
    ring: int,
    rows: HostRows,
    config: Any = None,
    ways: int = 1,
) -> Any:
    """This host's part of an endless stream of batches: an iterator with `get_state` and `set_state`.

    Args:
      split: "train", or "heldout", in which nothing is dropped from captions.
      ring: devices on "seq", for the order of the ring.
      config: for tasks and pages, ways: for tasks, as in `batch_shapes`.
    """
    common = dict(
        split=split,
        batch_size=stage.rows,
        seed=seed,
        process_index=rows.index,
        process_count=rows.count,
    )
    if stage.of_tasks:
        return open_task_batches(stage, data_dir, config=config, ways=ways, **common)
    from lwm.data import clip_questions, pipeline

    if stage.of_images:
        return pipeline.make_image_batches(data_dir, **common)
    common |= dict(
        mixture=stage.mixture,
        context_length=stage.context_length,
        ring=ring,
        stripe=stage.stripe,
        weighting=stage.weighting,
    )
    if stage.of_pages:
        return open_page_batches(stage, data_dir, config=config, **common)
    if stage.of_clips:
        return clip_questions.make_question_batches(
            data_dir,
            frames=stage.frames,
            shown=stage.shown,
            recolour=stage.recolour,
            questions=stage.questions,
            **common,
        )
    return pipeline.make_batches(
        data_dir,
        caption_dropout=stage.caption_dropout if split == "train" else 0.0,
        swap_order=stage.swap_order,
        **common,
    )


def _check_resolution(manifest: dict, model_config: Any) -> None:
    if model_config.resolution != manifest["resolution"]:
        raise UserError(
            f"config.model.resolution: {model_config.resolution}, but the images of the data folder have "
            f"{manifest['resolution']} pixels; use {manifest['resolution']} or prepare them anew"
        )
