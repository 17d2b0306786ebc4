"""From a workdir and a data folder to held-out numbers by name; what `python -m lwm.evaluate` calls.

It stands beside the verbs because it knows both sides: data sets, and the evaluations that take plain arrays.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from etils import epath

from lwm.assessment.clip_answers import check_rows, evaluate_answers
from lwm.assessment.page_scores import evaluate_pages
from lwm.assessment.task_answers import SAMPLES, evaluate_tasks
from lwm.data import datasets
from lwm.data.fields import VISION, parse_fields
from lwm.data.manifest import write_json, write_whole
from lwm.errors import UserError
from lwm.evaluation import codes, needle, perplexity, reconstruction, rows
from lwm.evaluation.scorer import Scorer
from lwm.evaluation.workdirs import read_json, read_rows
from lwm.generation.films import picture
from lwm.serving import sampling
from lwm.serving.attachments import read_text
from lwm.systems import build_model
from lwm.training.checkpoints import load_params

_BATCH_TOKENS = 8192  # where the context is shorter, rows are scored together


def run(
    workdir: epath.PathLike,
    *,
    data: str,
    stage: str | None,
    samples: int | None = None,
    tasks: Sequence[str] = (),
    beams: int = 1,
    **asked,
) -> None:
    """Measures a model of any kind, prints the numbers beside their baselines, and leaves them in files.

    WORKDIR/evaluation.jsonl: earlier rows of the stage are replaced. WORKDIR/needle.json: the needle grid.
    asked: of `evaluate_transformer`; of these a model that looks at clips, see `clip_answers.py`, is asked
    the first few, a VQGAN nothing. samples, tasks, beams: of a MultiModel, see `task_answers.py`; samples: of
    a DreamLLM's documents as well, see `page_scores.py`.
    """
    workdir = epath.Path(workdir)
    model = (read_json(workdir / "config.json") or {}).get("model") or {}
    asked["samples"] = 2 if samples is None else samples
    where = {"data": data, "stage": stage, "track": asked["track"]}
    if model.get("name") == "multimodel":
        most = SAMPLES if samples is None else samples
        _write(workdir, evaluate_tasks(workdir, tasks=tasks, samples=most, beams=beams, **where))
        return
    if model.get("name") == "dreamllm":
        _write(workdir, evaluate_pages(workdir, samples=samples or 0, **where))
        return
    if model.get("name") == "vqgan":
        cells, (stage, values) = [], evaluate_vqgan(workdir, data=data, stage=stage)
    elif model.get("name") == "cross_attention":
        cells, (stage, values) = [], evaluate_answers(workdir, data=data, stage=stage, **asked)
    else:
        stage, values, cells = evaluate_transformer(workdir, data=data, stage=stage, **asked)
    _write(workdir, rows.rows_of(values, stage))
    if cells and jax.process_index() == 0:
        grid = {"stage": stage, "cells": [cell._asdict() for cell in cells]}
        write_json(workdir / "needle.json", grid)


def _write(workdir: epath.Path, found: list[dict]) -> None:
    print("\n".join(rows.lines(found)))
    if jax.process_index() == 0:
        path = workdir / "evaluation.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows.replace(read_rows(path), found))
        write_whole(path, text.encode())


def evaluate_transformer(
    workdir: epath.PathLike,
    *,
    data: str,
    stage: str | None,
    max_tokens: int,
    lengths: Sequence[int],
    depths: Sequence[int],
    samples: int,
    track: perplexity.Track,
    haystack: str = "",
    rope_theta: float | None = None,
) -> tuple[str, dict[str, float], list[needle.Cell]]:
    """Text, video codes and the needle grid of a stage's mixture, at the length of its context.

    All devices form one ring. haystack: a file of text in place of what is held out. Other arguments: the
    verb's flags.

    Returns:
      (name of the stage, values by name, needle cells), without the kinds of which no document is held out.

    Raises:
      UserError: nothing is held out, or the context cannot be cut over the devices.
    """
    loaded = sampling.load(workdir, stage=stage, data=data, rope_theta=rope_theta, serving=False)
    tokenizer, manifest, block, data = loaded.tokenizer, loaded.manifest, loaded.block, loaded.data
    T = loaded.context_length
    if haystack:
        texts, clips = [np.asarray(tokenizer.encode(read_text("haystack", haystack)), np.int32)], []
    elif data:
        heldout = list(read_documents(data, block["mixture"], "heldout"))
        texts, clips = texts_of(heldout), clips_of(heldout, manifest)
    else:
        raise UserError("haystack: an imported model holds out no text; give a file by --haystack=FILE.txt")
    if not any(map(len, texts)) and not clips:
        raise UserError(
            f"haystack: {haystack} holds no text; give a file of prose"
            if haystack
            else f"data: {data} holds out no document of {list(block['mixture'])}; prepare with --heldout"
        )
    lengths = lengths or needle.lengths_within(T, texts)
    check_rows(jax.device_count(), {"context_length": T, "lengths": max(lengths, default=T)})
    score = Scorer(loaded.model, loaded.params, loaded.mesh)
    batches = {"batch_size": max(1, _BATCH_TOKENS // T), "track": track}
    windows = batches | {"context_length": T, "max_tokens": max_tokens}
    values, cells = {}, []
    if texts:
        values |= perplexity.evaluate(score.nll, tokenizer, texts, **windows)
    if clips:
        shape = {name: manifest[name] for name in ("codes", "codes_per_frame")}
        training = clips_of(read_documents(data, block["mixture"], "train"), manifest)
        counts_V = codes.count(np.concatenate([clip.tokens for clip in training]), manifest["codes"])
        values |= codes.evaluate(score.nll, clips, counts_V, **shape, **windows)
    if texts and lengths and samples:
        grid = {"lengths": lengths, "depths": depths, "samples": samples}
        cells = needle.grid(score.greedy, tokenizer, texts, **grid, **batches)
        values |= needle.evaluate(cells)
    return block["name"], values, cells


def evaluate_vqgan(
    workdir: epath.PathLike, *, data: str, stage: str | None, shown: int = 8
) -> tuple[str, dict[str, float]]:
    """Name of the stage, and values by name of rebuilt frames.

    `shown` of them, evenly spread, go to WORKDIR/samples/rebuilt.png, below their originals.
    """
    config, block, params = load_params(workdir, stage)
    model = build_model(config["model"], block)
    frames = datasets.frames(data or config["data"]["path"], "heldout")
    images = np.stack(frames.__getitems__(range(len(frames)))) if len(frames) else np.empty((0, 1, 1, 3))
    values = dict(reconstruction.evaluate(model, params, images))
    originals = images[np.linspace(0, len(images) - 1, shown).astype(int)]
    rebuilt = np.asarray(model.decode(params, model.encode(params, originals)))
    pairs = np.concatenate([np.concatenate(row, axis=1) for row in (originals, rebuilt)])
    folder = epath.Path(workdir) / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "rebuilt.png", picture(pairs[None], ".png", scale=max(1, 128 // images.shape[1])))
    return block["name"], values


def read_documents(data: str, sources: Iterable[str], split: str) -> Iterator[datasets.Document]:
    """All documents of a split, source by source."""
    for source in sources:
        documents = datasets.documents(data, source, split)
        yield from (documents[index] for index in range(len(documents)))


def texts_of(documents: Iterable[datasets.Document]) -> list[np.ndarray]:
    """Text ids of the documents that are nothing but text to learn: no pictures and no prompts."""
    return [
        document.tokens
        for document in documents
        if not document.vision.any() and all(group.loss for group in parse_fields(document.fields[0]))
    ]


def clips_of(documents: Iterable[datasets.Document], manifest: dict) -> list[codes.Clip]:
    """The documents with frames, each behind the text that its first field string puts ahead of them."""
    clips = []
    for document in documents:
        names = [name for group in parse_fields(document.fields[0]) for name in group.parts]
        if VISION in names and document.vision.any():
            parts = document.parts()
            before = [parts[name] for name in names[: names.index(VISION)]]
            prefix = np.concatenate([[manifest["bos"]], *before, manifest["vision_start"]]).astype(np.int32)
            clips.append(codes.Clip(prefix, parts[VISION]))
    return clips
