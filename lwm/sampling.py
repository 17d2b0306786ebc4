"""From workdirs and a prompt to text or pictures; what `python -m lwm.generate` calls.

It stands beside the verbs because it knows both sides: a data folder's tokenizer, and the samplers.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from lwm.data.manifest import load_manifest
from lwm.data.tokenizers import Tokenizer, load_tokenizer
from lwm.errors import UserError
from lwm.generation.cache import Prompt
from lwm.generation.loop import continue_text
from lwm.generation.sampler import Sampling
from lwm.generation.vision import SUFFIXES, generate_codes, picture
from lwm.systems import build_model
from lwm.training.checkpoints import load_params


class Run(NamedTuple):
    """A trained transformer with all that a prompt needs; manifest: data.json of its data folder."""

    model: Any
    params: dict
    tokenizer: Tokenizer
    manifest: dict
    context_length: int


def load(workdir: epath.PathLike, *, stage: str | None = None, data: str = "") -> Run:
    """The newest checkpoint of a stage (None: the last one), on one device, and the tokenizer of its data.

    Raises:
      UserError: there is no checkpoint of a transformer, or no data folder.
    """
    config, block, params = load_params(workdir, stage)
    if config["model"]["name"] != "lwm":
        raise UserError(
            f"workdir: {workdir} holds another model, {config['model']['name']}; give a transformer's workdir"
        )
    data = data or config["data"]["path"]
    manifest, model = load_manifest(data), build_model(config["model"], block)
    return Run(model, params, load_tokenizer(data), manifest, block["context_length"])


def write(run: Run, prompt: str, *, new_tokens: int, sampling: Sampling, seed: int) -> str:
    """The prompt and at most `new_tokens` tokens after it, up to the end of the document or of the context.

    Raises:
      UserError: the prompt fills the context.
    """
    ids = [run.tokenizer.bos, *run.tokenizer.encode(prompt)]
    room = _room(run, len(ids), 1, "for a new one")
    new = continue_text(
        run.model,
        run.params,
        [Prompt.of_text(ids)],
        new_tokens=min(new_tokens, room),
        sampling=sampling,
        seed=seed,
        vocab_size=run.tokenizer.vocab_size,
        stop=(run.tokenizer.eos,),
    )
    return run.tokenizer.decode([*ids, *new[0]])


def paint(
    run: Run, prompt: str, kind: str, *, vqgan: str, frames: int, sampling: Sampling, seed: int
) -> bytes:
    """The file of an image or a video of what the prompt says, laid out as training lays out a captioned one.

    vqgan: its workdir; "" = the one that encoded the data.

    Raises:
      UserError: the model knows no pictures, there is no VQGAN or one with other codes, or the context is
        too short.
    """
    manifest = run.manifest
    if not run.model.config.vision_vocab_size or not manifest["codes"]:
        raise UserError(f"kind: {kind!r}, but this model learned text alone; use --kind=text")
    start = [*manifest["vision_start"]]
    ids = [run.tokenizer.bos, *run.tokenizer.encode(prompt), *start]
    frame, vqgan = manifest["codes_per_frame"] + 1, vqgan or manifest["vqgan"]
    _room(run, len(ids), frames * frame, f"for {frames} frames of {frame}")
    if not (epath.Path(vqgan) / "config.json").exists():
        raise UserError(f"vqgan: {vqgan} holds no config.json; give the workdir of a VQGAN by --vqgan")
    config, block, params = load_params(vqgan)
    if config["model"]["name"] != "vqgan":
        raise UserError(
            f"vqgan: {vqgan} holds another model, {config['model']['name']}; give a VQGAN's workdir"
        )
    decoder = build_model(config["model"], block)
    if decoder.config.codes != manifest["codes"]:
        raise UserError(
            f"vqgan: {vqgan} has {decoder.config.codes} codes, the data {manifest['codes']}; "
            f"give the VQGAN that encoded it, {manifest['vqgan']}"
        )
    codes_FP = generate_codes(
        run.model,
        run.params,
        ids,
        [run.tokenizer.bos, *start],
        frames=frames,
        codes=manifest["codes"],
        codes_per_frame=manifest["codes_per_frame"],
        sampling=sampling,
        seed=seed,
    )
    decode = jax.jit(decoder.decode)
    images = np.concatenate([np.asarray(decode(params, codes_P[None])) for codes_P in codes_FP])
    scale = max(1, 256 // manifest["resolution"])
    return picture(images, SUFFIXES[kind], fps=manifest["fps"], scale=scale)


def _room(run: Run, prompt: int, least: int, purpose: str) -> int:
    """Tokens that the context still holds behind a prompt of so many."""
    room = run.context_length - prompt
    if room < least:
        raise UserError(
            f"prompt: {prompt} tokens leave {max(room, 0)} of the context's {run.context_length} {purpose}; "
            "shorten it, ask for less, or give another --stage"
        )
    return room
