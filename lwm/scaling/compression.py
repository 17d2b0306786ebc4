"""T and C of the Scaling Law Hypothesis, measured: raw bytes, and raw bytes a token, of real data.

Raw bytes T are those of the plain form: UTF-8 of text, eight bits a colour of pictures and frames, the
samples of sound. C = T / N says how many of them a tokenizer puts into a token; but not how much they say,
so what compressors make of the same bytes stands beside it, and for tokenizers that lose something, how much.
"""

import dataclasses
import gzip
import io
import lzma
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import av
import numpy as np
from PIL import Image

from lwm.errors import UserError

PEAK = {np.dtype(np.uint8): 255.0, np.dtype(np.int16): 65_535.0}  # widest range of a sample
RATE = 16_000  # written into the header of FLAC; the rate does not change its size


@dataclasses.dataclass(frozen=True)
class Compression:
    """What a tokenizer makes of a modality's data.

    Attributes:
      raw_bytes: T.
      tokens: N.
      bits_per_byte: of T, after each compressor that can take the modality.
      psnr: in dB, of decoded against original over all items together; inf if nothing is lost, None if it
        was not decoded.
    """

    modality: str
    tokenizer: str
    raw_bytes: int
    tokens: int
    bits_per_byte: dict[str, float]
    psnr: float | None = None

    @property
    def bytes_per_token(self) -> float:
        """C = T / N."""
        return self.raw_bytes / self.tokens

    def model_bits_per_byte(self, nll: float) -> float:
        """Bits a raw byte of a model whose negative log-likelihood of these N tokens sums to `nll` nats.

        The one unit in which tokenizers may be compared; where they lose something, only beside `psnr`.
        """
        return nll / math.log(2) / self.raw_bytes


def measure(
    tokenizer: str,
    items: Sequence[str | np.ndarray],
    encode: Callable[[Any], Sequence[int]],
    decode: Callable[[Any], Any] | None = None,
) -> Compression:
    """T, N and C of items through a tokenizer.

    Args:
      items: all texts; or all pictures, uint8 [height, width, 3] or frames of them [..., height, width, 3];
        or all sounds, int16 [samples] of PCM (or uint8 [samples], as µ-law has it).
      encode: an item -> its tokens.
      decode: tokens -> an item of the same shape; None leaves distortion out.

    Raises:
      UserError: no items, items of several modalities or of another form, or no tokens.
    """
    modalities = {modality(item) for item in items}
    if len(modalities) != 1:
        found = " and ".join(sorted(modalities)) or "no items"
        raise UserError(f"{tokenizer}: {found}; measure items of one modality")
    tokens, error, samples, peak = 0, 0.0, 0, 0.0
    for item in items:
        codes = encode(item)
        tokens += len(codes)
        if decode is None:
            continue
        again = decode(codes)
        if isinstance(item, str):
            if again != item:
                raise UserError(f"{tokenizer}: a text comes back changed; leave decode out for such texts")
            continue
        error += squared_error(item, again)
        samples, peak = samples + item.size, PEAK[item.dtype]
    if not tokens:
        raise UserError(f"{tokenizer}: no tokens of {len(items)} items; give items that are not empty")
    psnr = None if decode is None else decibels(error / samples if samples else 0.0, peak)
    total = sum(map(len, map(raw, items)))
    return Compression(modalities.pop(), tokenizer, total, tokens, bits_per_byte(items), psnr)


def modality(item: str | np.ndarray) -> str:
    """ "text", "image" or "audio"; see `measure`."""
    if isinstance(item, str):
        return "text"
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim >= 3 and item.shape[-1] == 3:
        return "image"
    if isinstance(item, np.ndarray) and item.dtype in PEAK and item.ndim == 1:
        return "audio"
    form = f"{item.dtype} {list(item.shape)}" if isinstance(item, np.ndarray) else type(item).__name__
    raise UserError(f"item: {form}; give text, uint8 pictures […, height, width, 3] or int16 sound [samples]")


def raw(item: str | np.ndarray) -> bytes:
    """The bytes that count as T."""
    return item.encode("utf-8") if isinstance(item, str) else np.ascontiguousarray(item).tobytes()


def bits_per_byte(items: Sequence[str | np.ndarray]) -> dict[str, float]:
    """Bits that compressors need for a raw byte of items of one modality, at their highest setting.

    gzip and xz take all items as one stream; PNG every picture, and FLAC every sound of 16 bits, by itself.
    """
    whole = b"".join(map(raw, items))
    sizes = {"gzip": len(gzip.compress(whole, 9, mtime=0)), "xz": len(lzma.compress(whole, preset=9))}
    kind = modality(items[0])
    if kind == "image":
        sizes["png"] = sum(len(png(picture)) for item in items for picture in _pictures(item))
    elif kind == "audio" and items[0].dtype == np.int16:
        sizes["flac"] = sum(len(flac(item)) for item in items if item.size)
    return {name: 8 * size / len(whole) for name, size in sizes.items()}


def png(picture: np.ndarray) -> bytes:
    """uint8 [height, width, 3]."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", optimize=True)
    return file.getvalue()


def flac(sound: np.ndarray) -> bytes:
    """int16 [samples], one channel."""
    file = io.BytesIO()
    # Files of FFmpeg otherwise leave 8 KiB of room for tags.
    unpadded = {"metadata_header_padding": "0"}
    with av.open(file, "w", format="flac", container_options=unpadded) as container:
        stream = container.add_stream("flac", rate=RATE, layout="mono", options={"compression_level": "12"})
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def squared_error(item: np.ndarray, again: np.ndarray) -> float:
    """Sum over all samples.

    Raises:
      UserError: another shape or type than the original's, in which errors would have no unit.
    """
    again = np.asarray(again)
    if again.shape != item.shape or again.dtype != item.dtype:
        found = f"{again.dtype} {list(again.shape)}"
        raise UserError(f"decode: {found}; must give back {item.dtype} {list(item.shape)}")
    return float(np.square(item.astype(np.float64) - again).sum())


def decibels(mean_squared_error: float, peak: float) -> float:
    """Peak signal-to-noise ratio in dB."""
    return math.inf if mean_squared_error == 0 else 10 * math.log10(peak**2 / mean_squared_error)


def _pictures(item: np.ndarray) -> Iterable[np.ndarray]:
    return item.reshape(-1, *item.shape[-3:])
