"""Square frames from videos and images.

Short side to R, centre crop to R×R (PAPERS: LWM `vision_chat.py` does the same at 256), or another view of
the picture; sampled by the time that each frame is shown at, not by its number, so that variable frame rates
come out even.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps

from lwm import bounds
from lwm.errors import one_line

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m1v", ".m2v", ".m4v", ".mkv"}
    | {".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})

# A video is one file: FFmpeg also knows lists of other files and of addresses, which it would open.
_ALONE = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,matroska,avi,flv,live_flv,asf,gif,mpeg,mpegts,mpegvideo,m4v,ogg",
}
_LATE = 2  # frames that an edit list may hide
_SLACK = 0.05  # of a sampling period: containers round 1/24 s and the like to their own ticks


class BrokenMedia(Exception):
    """A file that cannot be decoded; the text says why in a few words, in one line."""

    def __init__(self, reason: str):
        super().__init__(one_line(reason))


class View(NamedTuple):
    """The square of a picture that is kept.

    side: its side over the picture's short side. top, left: where it lies in what it leaves free, 0 to 1.
    """

    side: float = 1.0
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False


WHOLE = View()


def draw_view(random: np.random.Generator) -> View:
    """Returns a square of half to all of the short side, anywhere in the picture, mirrored or not."""
    side, top, left, coin = random.random(4)
    return View((1 + side) / 2, top, left, bool(coin < 0.5))


def read_video(
    path: str, *, resolution: int, fps: float = 0, max_frames: int = 0, view: View = WHOLE
) -> Iterator[np.ndarray]:
    """Yields the frames of a video as uint8 [R, R, 3], in order of time, holding one at a time.

    Args:
      path: a file that PyAV can open; of its first video stream, pixel aspect ratio and rotation are applied.
      resolution: R.
      fps: frames kept per second of film, 0 for all. Kept is the first frame shown at or after k / fps, for
        each k; none is repeated, so a rate above the film's own keeps every frame.
      max_frames: stop after this many, 0 for no limit.
      view: what is kept of every frame.

    Raises:
      BrokenMedia: the file cannot be opened, has no video stream, no frame, or breaks while it is decoded.
    """
    kept, due, start = 0, 0, None
    try:
        with av.open(path, container_options=_ALONE) as container:
            if not container.streams.video:
                raise BrokenMedia("has no video stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise BrokenMedia("has video in a form that is not known")
            _check_pixels(stream.width, stream.height)
            stream.codec_context.options = {"max_pixels": str(bounds.PIXELS)}
            stream.thread_type = "AUTO"
            rate, aspect = float(stream.average_rate or 25), float(stream.sample_aspect_ratio or 1)
            for number, frame in enumerate(container.decode(stream)):
                time = number / rate if frame.time is None else frame.time
                start = time if start is None else start
                periods = (time - start) * fps + _SLACK
                if periods < due:
                    continue
                yield _square(frame, resolution, aspect, view)
                kept += 1
                if kept == max_frames:
                    return
                due = math.floor(periods) + 1 if fps else 0
    except (av.FFmpegError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise BrokenMedia(f"cannot be decoded: {getattr(error, 'strerror', '') or error}") from None
    if not kept:
        raise BrokenMedia("has no frame that can be decoded")


def even_frames(path: str, *, resolution: int, count: int) -> np.ndarray:
    """Returns at most `count` frames, evenly spread from the first to the last, uint8 [F, R, R, 3].

    A shorter video gives all that it has. One pass, which holds about 2 `count` frames at most.

    Raises:
      BrokenMedia: as `read_video`, or the file ends before the frames do that it announces.
    """
    kept, stride, total = [], 1, 0
    for total, frame in enumerate(read_video(path, resolution=resolution), start=1):
        if (total - 1) % stride == 0:
            kept.append(frame)
        last = frame
        if len(kept) > 2 * count:
            kept, stride = kept[::2], 2 * stride
    announced = _announced(path)
    if total < announced - _LATE:
        raise BrokenMedia(f"is cut off: {total} of its {announced} frames are there")
    if (total - 1) % stride:
        kept.append(last)
    chosen = np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)
    return np.stack([kept[at] for at in chosen])


def _announced(path: str) -> int:
    """Number of frames that the container says it has; 0 = it does not say."""
    with av.open(path, container_options=_ALONE) as container:
        return container.streams.video[0].frames


def _check_pixels(width: int, height: int) -> None:
    if width * height > bounds.PIXELS:
        raise BrokenMedia(
            f"has {width} x {height} pixels; {bounds.PIXELS} at most can be read: make it smaller"
        )


def read_image(path: str, *, resolution: int, view: View = WHOLE) -> np.ndarray:
    """Returns an image as uint8 [R, R, 3]; transparency is laid on white, EXIF rotation applied.

    Raises BrokenMedia if Pillow cannot read it.
    """
    image = open_on_white(path)
    side = view.side * min(image.size)
    left, top = (image.width - side) * view.left, (image.height - side) * view.top
    box = (left, top, left + side, top + side)
    image = image.resize((resolution, resolution), Image.Resampling.LANCZOS, box)
    return np.asarray(ImageOps.mirror(image) if view.mirrored else image)


def open_on_white(path: str) -> Image.Image:
    """Returns an image in RGB, transparency laid on white, EXIF rotation applied.

    Raises BrokenMedia if Pillow cannot read it.
    """
    try:
        with Image.open(path) as opened:
            _check_pixels(*opened.size)
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("RGB")
    except BrokenMedia:
        raise
    except Exception as error:  # whatever a plugin of Pillow stumbles over
        reason = str(error).replace(repr(path), "it").replace(path, "it")
        raise BrokenMedia(f"cannot be decoded: {reason}") from None


def _square(frame: av.VideoFrame, resolution: int, aspect: float, view: View) -> np.ndarray:
    """A view of one decoded frame, whose pixels are `aspect` times as wide as high, as uint8 [R, R, 3]."""
    width, height = frame.width * aspect, frame.height
    if not 1 / bounds.SHAPE <= width / height <= bounds.SHAPE:
        raise BrokenMedia(f"is {width / height:.3g} times as wide as high; it is damaged")
    _check_pixels(frame.width, frame.height)
    scale = resolution / (view.side * min(width, height))
    width, height = (max(resolution, round(side * scale)) for side in (width, height))
    how = "AREA" if scale < 1 else "BICUBIC"
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation=how)
    top, left = int((height - resolution) * view.top), int((width - resolution) * view.left)
    pixels = pixels[top : top + resolution, left : left + resolution]
    pixels = np.rot90(pixels, k=round(frame.rotation / 90))
    return np.ascontiguousarray(pixels[:, ::-1] if view.mirrored else pixels)
