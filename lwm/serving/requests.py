"""The kinds of what `python -m lwm.generate` makes, each shown as it comes and left in files when whole."""

import json
from pathlib import PurePath
from typing import NamedTuple

from etils import epath

from lwm.data.manifest import write_whole
from lwm.generation import templates
from lwm.generation.cache import Prompt
from lwm.generation.loop import Said, continue_text
from lwm.generation.sampler import Sampling
from lwm.serving import attachments, interleaving, painting, sampling, watching
from lwm.serving.codec import Codec, open_codec
from lwm.serving.sampling import Run
from lwm.serving.typewriter import Typewriter


class Request(NamedTuple):
    """The flags of the verb. frames: of a video to be made, or of the one in the prompt (0 = as fit)."""

    prompt: str
    image: str
    video: str
    frames: int
    chat: bool
    vqgan: str
    new_tokens: int
    sampling: Sampling
    seed: int
    output: str


def write(run: Run, request: Request) -> None:
    """Text to stdout as it comes; the whole of it, prompt included unless it is a question, to the output."""
    run, asked = _seen(run, request)
    pieces = [] if request.chat else [request.prompt]
    how = {"new_tokens": request.new_tokens, "sampling": request.sampling, "seed": request.seed}
    stop = templates.template_of(run.tokenizer).stop if request.chat and not run.looks else None
    sampling.check_room(run, len(asked.tokens))
    with Typewriter(request.new_tokens) as typewriter:
        typewriter.say("".join(pieces))
        for piece, tokens in sampling.stream(run, asked, stop=stop, **how):
            typewriter.say(piece)
            typewriter.count(tokens)
            pieces.append(piece)
        typewriter.say("\n")
    save(request.output, {request.output: "".join(pieces).encode()})


def write_lines(run: Run, request: Request, prompts: list[str]) -> None:
    """Goes on from all prompts in one batch: a JSON line {"prompt", "text"} for each."""
    asked = [_asked(run, request, prompt) for prompt in prompts if prompt]
    room = sampling.check_room(run, max(len(prompt.tokens) for prompt in asked))
    stop = templates.template_of(run.tokenizer).stop if request.chat else (run.tokenizer.eos,)
    with sampling.devices(run):
        new = continue_text(
            run.model,
            run.params,
            asked,
            new_tokens=min(request.new_tokens, room),
            sampling=request.sampling,
            seed=request.seed,
            vocab_size=run.tokenizer.vocab_size,
            stop=stop,
        )
    rows = zip([prompt for prompt in prompts if prompt], map(run.tokenizer.decode, new), strict=True)
    lines = [json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False) for prompt, text in rows]
    print("\n".join(lines))
    save(request.output, {request.output: ("\n".join(lines) + "\n").encode()})


def paint(run: Run, request: Request, kind: str) -> None:
    """An image or a video to the output."""
    total = request.frames * ((run.manifest.get("codes_per_frame") or 0) + 1)
    with Typewriter(total, what=kind) as typewriter:

        def watch(said: Said) -> None:
            typewriter.count(int((said.tokens_BT >= 0).sum()))

        content = painting.paint(
            run,
            request.prompt,
            kind,
            vqgan=request.vqgan,
            frames=request.frames,
            sampling=request.sampling,
            seed=request.seed,
            suffix=PurePath(request.output).suffix.lower(),
            watch=watch,
        )
    save(request.output, {request.output: content})


def interleave(run: Run, request: Request) -> None:
    """Text and pictures as the model likes: shown as text, and a page with its pictures as the output."""
    codec = open_codec(run, request.vqgan, "kind: 'any'")
    asked = _asked(run, request, request.prompt, codec)
    with Typewriter(request.new_tokens) as typewriter:
        typewriter.say(request.prompt)

        def say(text: str, tokens: int) -> None:
            typewriter.say(text)
            typewriter.count(tokens)

        parts = interleaving.interleave(
            run,
            codec,
            asked,
            new_tokens=request.new_tokens,
            text=request.sampling,
            vision=request.sampling,
            seed=request.seed,
            say=say,
        )
        typewriter.say("\n")
    save(request.output, interleaving.as_markdown(parts, codec, request.output))


def save(output: str, files: dict[str, bytes]) -> None:
    """Writes each file whole, in order; nothing if there is no output."""
    if not output:
        return
    for name, content in files.items():
        path = epath.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def _seen(run: Run, request: Request) -> tuple[Run, Prompt]:
    """The run and its prompt; a model that looks at pictures beside its text has looked."""
    if run.looks and (request.image or request.video):
        file = {"image": request.image, "video": request.video, "frames": request.frames}
        return watching.look(run, request.prompt, chat=request.chat, **file)
    return run, _asked(run, request, request.prompt)


def _asked(run: Run, request: Request, text: str, codec: Codec | None = None) -> Prompt:
    """The prompt: text with the picture in its place, or one question in the model's template."""
    tokenizer, picture = run.tokenizer, []
    if request.image or request.video:
        field = f"image: {request.image!r}" if request.image else f"video: {request.video!r}"
        codec = codec or open_codec(run, request.vqgan, field)
        reserve = len(tokenizer.encode(text)) + min(request.new_tokens, run.context_length // 2) + 64
        file = {"image": request.image, "video": request.video, "frames": request.frames}
        picture = attachments.look(codec, run.context_length, **file, reserve=reserve)
    if request.chat:
        question = text.replace(attachments.MARK, "")
        return templates.encode(tokenizer, templates.template_of(tokenizer).first(question, picture=picture))
    parts = attachments.placed(text, picture) if picture else [text]
    return templates.encode(tokenizer, templates.plain(tokenizer, *parts))
