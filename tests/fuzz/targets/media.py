"""Pictures, films, sound, and arrays of NumPy; most of the work is done by libraries in C."""

import functools
import io
import wave
from pathlib import Path

import av
import numpy as np
from PIL import Image

from lwm.data import interleaved_records
from lwm.data.task_records import Record, decode_png
from lwm.data.task_sources.prompts import read_prompts
from lwm.data.task_sources.reading import Reading
from lwm.serving.attachments import read_frames
from tests.fuzz.target import Target

_SIDE = 8


@functools.cache
def _pictures() -> list[bytes]:
    pixels, found = np.random.default_rng(0).integers(0, 256, (6, 10, 4), dtype=np.uint8), []
    clear, opaque = Image.fromarray(pixels, "RGBA"), Image.fromarray(pixels[..., :3], "RGB")
    exif = Image.Exif()
    exif[0x112] = 6
    for image, form, options in (
        (clear, "PNG", {}),
        (opaque, "PNG", {"exif": exif}),
        (opaque.quantize(4), "PNG", {"transparency": 1}),
        (opaque, "JPEG", {"exif": exif}),
        (opaque, "JPEG", {"progressive": True}),
        (opaque, "BMP", {}),
        (clear, "WEBP", {}),
        (opaque, "TIFF", {}),
        (opaque.quantize(8), "GIF", {}),
    ):
        file = io.BytesIO()
        image.save(file, form, **options)
        found.append(file.getvalue())
    return found


@functools.cache
def _films() -> list[bytes]:
    found = []
    for form, codec in (
        ("mp4", "mpeg4"),
        ("matroska", "mpeg4"),
        ("avi", "mjpeg"),
        ("mp4", "h264"),
        ("webm", "vp9"),
    ):
        file = io.BytesIO()
        with av.open(file, "w", format=form) as container:
            stream = container.add_stream(codec, rate=8)
            stream.width = stream.height = 16
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for number in range(3):
                frame = av.VideoFrame.from_ndarray(
                    np.full((16, 16, 3), 60 * number, np.uint8), format="rgb24"
                )
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        found.append(file.getvalue())
    # Lists of other files, which FFmpeg would open.
    found.append(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n../outside/secret\n#EXT-X-ENDLIST\n")
    found.append(b"ffconcat version 1.0\nfile ../outside/secret\n")
    return found


@functools.cache
def _waves() -> list[bytes]:
    found = []
    for channels, width, rate in ((1, 2, 100), (2, 1, 150)):
        file = io.BytesIO()
        with wave.open(file, "wb") as out:
            out.setparams((channels, width, rate, 0, "NONE", ""))
            out.writeframes(bytes(range(40)))
        found.append(file.getvalue())
    return found


def _lay_voice(folder: Path) -> None:
    listing = folder / "asterisk-core-sounds-en/usr/share/doc/x/core-sounds-en.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("beep: A word.\n")


def _arrays() -> list[bytes]:
    found = []
    for array in (np.ones((3, 2), np.int32), np.zeros((0, 2), np.int32)):
        file = io.BytesIO()
        np.save(file, array)
        found.append(file.getvalue())
    return found


def _png_of_record(path: Path) -> None:
    decode_png(Record(key="a", base="a", image=path.read_bytes()))


TARGETS = (
    Target("image", "x.png", _pictures, lambda path: read_frames(_SIDE, image=str(path), frames=1), 8),
    Target("video", "x.mp4", _films, lambda path: read_frames(_SIDE, video=str(path), frames=4), 2),
    Target(
        "wav",
        "asterisk-core-sounds-en-wav/usr/share/asterisk/sounds/en/beep.wav",
        _waves,
        lambda path: list(read_prompts(Reading(str(path.parents[6]), rate=100))),
        8,
        lay=_lay_voice,
    ),
    Target("record_png", "x.png", lambda: _pictures()[:3], _png_of_record, 8),
    Target(
        "page_sizes",
        "interleaved_pages/a/train.npy",
        _arrays,
        lambda path: interleaved_records.page_sizes(path.parents[2], "a", "train"),
        10,
    ),
)
