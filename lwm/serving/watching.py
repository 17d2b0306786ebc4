"""A picture or a video beside a prompt, for models that look at frames by cross-attention.

The prompt has a dot for each frame, in a line for each eighth of the video, as the questions have that such a
model learned from (`lwm.data.clip_questions`); a frame is seen from its dot on.
"""

from collections.abc import Sequence

import numpy as np

from lwm.data.clip_questions import dots_of
from lwm.data.clips import FRAME_BITS, MOST_FRAMES
from lwm.data.fields import chat_parts
from lwm.errors import UserError
from lwm.generation import templates
from lwm.generation.cache import Prompt
from lwm.serving import attachments, sampling
from lwm.serving.sampling import Run


def look(
    run: Run, text: str, *, image: str = "", video: str = "", frames: int = 0, chat: bool = False
) -> tuple[Run, Prompt]:
    """The run with the file in sight, and the prompt about it.

    Args:
      text: the dots stand where `attachments.MARK` is, or ahead of it.
      image, video: a file; of a video as many frames as the stage's clips show are taken, evenly spread, or
        all of a shorter one.
      frames: so many of a video instead; 0 = those of the stage.
      chat: the text is a question, asked as in training.

    Raises:
      UserError: the model reads stored features; the file cannot be read; more frames than can be numbered;
        no room for the prompt; more than one mark.
    """
    config, block = run.model.config, run.block
    field = f"image: {image}" if image else f"video: {video}"
    if not config.encoder_layers:
        raise UserError(f"{field} is made of pixels, and this model reads stored features; leave it out")
    count = 1 if image else frames or block["shown"] or block["frames"]
    if count > min(MOST_FRAMES, run.context_length):
        raise UserError(
            f"frames: {count} need a token each, the context holds {run.context_length}; ask for fewer"
        )
    pixels = attachments.read_frames(config.resolution, image=image, video=video, frames=count)
    prompt, starts = prompt_about(run.tokenizer, text, len(pixels), chat=chat)
    sampling.check_room(run, len(prompt.tokens))
    ids = (1 << FRAME_BITS) + 1 + np.arange(len(pixels), dtype=np.int32)
    if config.media == "all":
        starts = np.zeros_like(starts)
    with sampling.devices(run):
        params = run.model.watch(run.params, pixels[None], ids[None], starts[None])
    return run._replace(params=params), prompt


def prompt_about(tokenizer, text: str, frames: int, *, chat: bool) -> tuple[Prompt, np.ndarray]:
    """(the prompt with dots for so many frames, int32 [frames] the position of each dot)."""
    dots = dots_of(tokenizer, frames)
    picture = Prompt.of_text([token for ids, _ in dots for token in ids])
    if chat:
        said = chat_parts(text.replace(attachments.MARK, ""), "", vision=True)
        parts: Sequence[templates.Part] = [said["question"], picture, said["assistant"]]
    else:
        parts = attachments.placed(text, [picture])
    parts = templates.plain(tokenizer, *parts)
    place = next(place for place, part in enumerate(parts) if part is picture)
    before = len(templates.encode(tokenizer, parts[:place]).tokens) if place else 0
    # Where the number of the last frame goes up, there is its dot.
    numbers = np.repeat([number for _, number in dots], [len(ids) for ids, _ in dots])
    starts = before + np.searchsorted(numbers, np.arange(1, frames + 1))
    return templates.encode(tokenizer, parts), starts.astype(np.int32)
