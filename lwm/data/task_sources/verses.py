"""The Bible in Spanish (Reina-Valera, 1909) and English (1769), verse by verse, from SWORD modules.

A module is a compressed text ("zText") for each testament, in three files: *.bzz, the compressed blocks;
*.bzs, for each block where it lies there (start, length, length unpacked, as 32-bit integers); *.bzv, for
each verse its block, its start in the unpacked block and its length (32, 32 and 16 bits), all little-endian.
Both modules number verses the same way, so the number of a verse aligns them.
"""

import html
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from lwm import bounds
from lwm.data.task_records import Record
from lwm.data.task_sources.reading import Reading, one_line
from lwm.errors import UserError

_ASIDE = re.compile(r"<(note|title|rdg)\b(?:[^>]*/>|.*?</\1>)", re.DOTALL)  # not of the verse itself
_TAG = re.compile(r"<[^>]+>")


def read_verses(reading: Reading) -> Iterator[Record]:
    """Yields source (Spanish) and target (English); the base is the verse."""
    modules = "usr/share/sword/modules/texts/ztext"
    spanish = reading.find("sword-text-sparv", f"{modules}/spaRV*")
    english = reading.find("sword-text-kjv", f"{modules}/engKJV*")
    for testament in ("ot", "nt"):
        sides = [_testament(folder, testament, reading) for folder in (spanish, english)]
        for number in sorted(set.intersection(*map(set, sides))):
            name = f"verse:{testament}:{number}"
            yield Record(key=name, base=name, source=sides[0][number], target=sides[1][number])


def plain(osis: str) -> str:
    """Returns the text of a verse marked up in OSIS, without headings, notes and the paragraph sign."""
    return one_line(html.unescape(_TAG.sub("", _ASIDE.sub(" ", osis))).replace("\u00b6", " "))


def _testament(folder: Path, testament: str, reading: Reading) -> dict[int, str]:
    """The verses of a testament by number; none if its files are damaged and that may be."""
    try:
        return {number: text for number, osis in _unpack(folder, testament) if (text := plain(osis))}
    except (OSError, struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        reason = f"sources: {folder}/{testament}.bzz cannot be unpacked ({error})"
        reading.damaged(UserError(f"{reason}; fetch it again or pass --skip_damaged"))
        return {}


def _unpack(folder: Path, testament: str) -> Iterator[tuple[int, str]]:
    starts, verses, packed = (
        (folder / f"{testament}.{suffix}").read_bytes() for suffix in ("bzs", "bzv", "bzz")
    )
    places = list(struct.iter_unpack("<III", starts))
    if sum(unpacked for _, _, unpacked in places) > bounds.UNPACKED:
        raise OSError(f"unpacked it is more than {bounds.UNPACKED} bytes")
    blocks = [
        zlib.decompressobj().decompress(packed[start : start + length], unpacked)
        if length and unpacked
        else b""
        for start, length, unpacked in places
    ]
    for number, (block, start, length) in enumerate(struct.iter_unpack("<IIH", verses)):
        if length:
            yield number, blocks[block][start : start + length].decode("utf-8")
