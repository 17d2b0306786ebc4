"""Files that a person brings to a prompt: text, an image or a video, read whole or refused in one line."""

from collections.abc import Sequence

import numpy as np
from etils import epath

from lwm.data.video import BrokenMedia, even_frames, read_image
from lwm.errors import UserError
from lwm.generation import templates
from lwm.serving.codec import Codec

MARK = "<vision>"  # where a picture stands in a prompt


def read_text(field: str, path: str) -> str:
    """The text of a file, without the mark of its byte order.

    Raises:
      UserError: it is missing, empty or not UTF-8; `field` is the flag that named it.
    """
    try:
        text = epath.Path(path).read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise UserError(f"{field}: {path} cannot be read ({error.strerror or error}); give a file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{field}: {path} is no text in UTF-8 ({error.reason}); give a .txt file") from error
    if not text.strip():
        raise UserError(f"{field}: {path} has no text in it; give another file")
    return text


def read_frames(resolution: int, *, image: str = "", video: str = "", frames: int) -> np.ndarray:
    """The image, or at most so many frames evenly spread over the video, uint8 [F, R, R, 3], R = resolution.

    Raises:
      UserError: the file is missing, broken or has no frames.
    """
    field, path = ("image", image) if image else ("video", video)
    try:
        if not epath.Path(path).is_file():
            raise BrokenMedia("is not a file")
        if image:
            return read_image(path, resolution=resolution)[None]
        return even_frames(path, resolution=resolution, count=frames)
    except BrokenMedia as error:
        raise UserError(f"{field}: {path} {error}; give another file") from error


def frames_within(codec: Codec, context_length: int, *, asked: int, reserve: int) -> int:
    """Frames of a video that fit: as many as asked for (0 = as fit) beside `reserve` tokens.

    Raises:
      UserError: not as many as asked for, or not one.
    """
    size = codec.codes_per_frame + 1
    most = (context_length - reserve) // size
    if most < max(asked, 1):
        fix = f"ask for {most}" if most > 0 else "leave some text out"
        raise UserError(
            f"frames: {asked or 1} of {size} tokens do not fit beside {reserve} others into the context's "
            f"{context_length}; {fix}, or give another --stage"
        )
    return asked or most


def look(
    codec: Codec, context_length: int, *, image: str, video: str, frames: int, reserve: int
) -> list[templates.Part]:
    """The parts of a prompt that show the image, or so many frames of the video (0 = as fit).

    Raises:
      UserError: as `read_frames` and `frames_within`.
    """
    count = frames_within(codec, context_length, asked=frames if video else 1, reserve=reserve)
    return codec.look(read_frames(codec.resolution, image=image, video=video, frames=count))


def placed(prompt: str, picture: Sequence[templates.Part]) -> list[templates.Part]:
    """The prompt's parts with the picture where its mark is, or ahead of it if there is none.

    Raises:
      UserError: more than one mark.
    """
    before, *behind = prompt.split(MARK)
    if len(behind) > 1:
        raise UserError(f"prompt: {MARK} stands {len(behind)} times in it, for one picture; leave one")
    return [before, *picture, behind[0]] if behind else [*picture, prompt]
