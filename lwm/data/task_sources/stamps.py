"""Tux Paint's stamps: pictures of animals, letters, food, … with an English caption and a category."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from lwm.data.task_records import Record, encode_png
from lwm.data.task_sources.reading import Reading, one_line
from lwm.data.video import BrokenMedia, open_on_white
from lwm.errors import UserError


def read_stamps(reading: Reading) -> Iterator[Record]:
    """Yields image, target (the caption) and label (the topmost folder: animals, food, …).

    A stamp is NAME.png beside NAME.txt, whose first line is the caption. Stamps that are drawings (.svg) have
    no pixels and are left out, as are mirrored ones, which have no text.
    """
    root = reading.find("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps")
    for image in sorted(root.rglob("*.png")):
        text = image.with_suffix(".txt")
        if not text.exists():
            continue
        name = image.relative_to(root).with_suffix("").as_posix()
        try:
            pixels = on_square(image, reading.resolution)
            caption = one_line(text.read_text(encoding="utf-8").partition("\n")[0])
        except (BrokenMedia, UnicodeDecodeError) as error:
            reason = str(error) if isinstance(error, BrokenMedia) else "its caption is not UTF-8"
            reading.damaged(UserError(f"sources: {image} {reason}; mend it or pass --skip_damaged"))
            continue
        if not caption:
            reading.damaged(UserError(f"sources: {text} has no caption; mend it or pass --skip_damaged"))
            continue
        yield Record(
            key=f"stamp:{name}",
            base=f"stamp:{name}",
            image=encode_png(pixels),
            target=caption,
            label=name.split("/")[0],
        )


def on_square(path: Path, side: int) -> np.ndarray:
    """Returns a picture as uint8 [side, side, 3]: all of it, as large as can be, in the middle of white.

    However thin it is, its short side keeps a pixel. Raises BrokenMedia if it cannot be decoded.
    """
    image = open_on_white(str(path))
    # As ImageOps.pad does it, which leaves nothing of a picture whose short side rounds to 0.
    width, height = (max(1, round(edge / max(image.size) * side)) for edge in image.size)
    square = Image.new("RGB", (side, side), "white")
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    square.paste(resized, (round((side - width) / 2), round((side - height) / 2)))
    return np.asarray(square)
