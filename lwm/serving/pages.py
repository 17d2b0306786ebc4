"""Pages of text and pictures by a DreamLLM, shown as they come, and left as a folder of files when whole."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from etils import epath

from lwm.data.manifest import load_manifest
from lwm.data.task_sources.stamps import on_square
from lwm.data.video import BrokenMedia
from lwm.errors import UserError
from lwm.generation import dreams
from lwm.generation.dreams import Bounds, Drawing, Drawn, Said
from lwm.generation.text_stream import TextStream
from lwm.ops.diffusion_samplers import check_guidance, make_route
from lwm.serving import attachments, page_files, sampling
from lwm.serving.requests import Request, save
from lwm.serving.sampling import Run
from lwm.serving.typewriter import Typewriter
from lwm.systems import build_model
from lwm.training.checkpoints import load_params
from lwm.training.folders import check_new


def load(workdir: epath.PathLike, *, stage: str | None = None, data: str = "") -> Run:
    """The newest checkpoint of a stage of a DreamLLM (None: the last one), on one device.

    Raises:
      UserError: no checkpoint of a DreamLLM that draws pixels, no tokenizer, or one that does not fit.
    """
    config, block, params = load_params(workdir, stage)
    if (name := config["model"]["name"]) != "dreamllm":
        raise UserError(f"workdir: {workdir} holds another model, {name}; give a DreamLLM's workdir")
    # Prompts come in any length, not in whole stripes.
    model = build_model(config["model"], block, stripe=0)
    if model.config.decoder.latents:
        raise UserError(
            f"workdir: {workdir} draws latents, which nothing here decodes; give one that draws pixels"
        )
    data = data or config.get("data", {}).get("path", "")
    manifest, tokenizer = load_manifest(data) if data else {}, sampling.tokenizer_of(workdir, data)
    if tokenizer.vocab_size != model.config.dream_start:
        raise UserError(
            f"data: {data} has a tokenizer of {tokenizer.vocab_size} ids, the model marks pictures from id "
            f"{model.config.dream_start} on; give the folder that it learned from"
        )
    return Run(model, params, tokenizer, config, dict(block), data, manifest, None)


def write(
    run: Run, request: Request, *, pictures: int, steps: int, method: str = "dpm"
) -> list[str | np.ndarray]:
    """Goes on from a prompt: text and marks of pictures to stdout as they come, then the folder `output`.

    Args:
      request: its picture stands where `attachments.MARK` is in the prompt, or ahead of it; `sampling` is of
        the text, but for its guidance, which is of the pictures.
      pictures: that are drawn, at most.
      steps, method: of the sampler of pictures, see `dreams.Drawing`.

    Returns:
      The page: texts, and pictures uint8 [R, R, 3]; the prompt's come first.

    Raises:
      UserError: there is no prompt, or one that fills the context; the picture cannot be read; a sampler that
        there is not; `output` is a file, or a folder that holds something.
    """
    drawing = _drawing(run, steps, request.sampling.guidance, method)
    if request.output:
        check_new("output", request.output)
    given = _prompt(run, request)
    dreamed = shows_dreamed(run, leads=not isinstance(given[0], str))
    parts = [run.tokenizer.encode(part) if isinstance(part, str) else part for part in given]
    sampling.check_room(run, dreams.positions_of(run.model, parts, dreamed=dreamed))
    made = dreams.write(
        run.model,
        run.params,
        parts,
        Bounds(run.context_length, request.new_tokens, pictures),
        bos=run.tokenizer.bos,
        eos=run.tokenizer.eos,
        text=request.sampling,
        drawing=drawing,
        seed=request.seed,
        dreamed=dreamed,
    )
    page, left, opening = list(given), request.new_tokens, page_files.as_markdown(given)
    for speaks, events in itertools.groupby(made, lambda event: isinstance(event, Said)):
        if speaks:
            text, tokens = _typed(run, events, left, opening)
            page, left, opening = [*page, *([text] if text else [])], left - tokens, ""
        else:
            page.append(_drawn(events, steps, sum(not isinstance(part, str) for part in page)))
    print(flush=True)
    about = f"seed {request.seed} · guidance {drawing.guidance:g} · {steps} steps of {method}"
    title = "".join(part for part in given if isinstance(part, str)).strip()[:60]
    files = page_files.files_of(page, given=len(given), title=title, about=about)
    save(request.output, {f"{request.output}/{name}": content for name, content in files.items()})
    if request.output:
        print(f"page: {request.output}/{page_files.HTML}", file=sys.stderr)
    return page


def shows_dreamed(run: Run, *, leads: bool) -> bool:
    """Whether the picture of a prompt stands behind queries, as in documents whose pictures are drawn.

    Where the stage has learned both, one that leads, ahead of all text, stands alone, as in questions and in
    pairs of a picture and its caption, and one in the midst of text stands behind queries.
    """
    used = [source for source, weight in run.block["mixture"].items() if weight]
    forms = {run.block["forms"].get(source, "joint") for source in used}
    return "joint" in forms and not (leads and forms & {"comprehension", "pairs"})


def _drawing(run: Run, steps: int, guidance: float, method: str) -> Drawing:
    """How pictures are drawn. Raises UserError if they cannot be drawn so."""
    try:
        check_guidance(guidance)
        make_route(method, run.model.decoder.schedule, steps)
    except ValueError as error:
        raise UserError(str(error)) from None
    return Drawing(steps, guidance, method)


def _prompt(run: Run, request: Request) -> list[str | np.ndarray]:
    """The text of the prompt, and its picture in its place."""
    if not request.image:
        if not request.prompt.strip():
            raise UserError(
                f"prompt: {request.prompt!r} has no text, and there is no image; give one of them"
            )
        return [request.prompt]
    try:
        if not Path(request.image).is_file():
            raise BrokenMedia("is not a file")
        picture = on_square(Path(request.image), run.model.config.vision.resolution)
    except BrokenMedia as error:
        raise UserError(f"image: {request.image} {error}; give another file") from error
    return [
        part for part in attachments.placed(request.prompt, [picture]) if not isinstance(part, str) or part
    ]


def _typed(run: Run, events: Iterator[Said], most: int, opening: str) -> tuple[str, int]:
    """Shows text as it comes: the whole of it, and the number of its tokens."""
    stream, pieces, tokens = TextStream(run.tokenizer.decode), [], 0
    with Typewriter(most) as typewriter:
        typewriter.say(opening)
        for event in events:
            own = [token for token in event.ids if token < run.tokenizer.vocab_size]
            pieces.append(stream.push([token for token in own if token != run.tokenizer.eos]))
            typewriter.say(pieces[-1])
            typewriter.count(len(event.ids))
            tokens += len(event.ids)
        pieces.append(stream.end())
        typewriter.say(pieces[-1])
    return "".join(pieces), tokens


def _drawn(events: Iterator[Drawn], steps: int, before: int) -> np.ndarray:
    """Shows how far a picture is, behind so many others: the picture."""
    with Typewriter(steps, what=f"picture {before + 1}", unit="steps") as typewriter:
        for event in events:
            picture = event.picture
            typewriter.count(1)
        typewriter.say(page_files.as_markdown([picture], before=before))
    return picture
