"""Packages of other people that samples of tasks are read from."""

import gzip
import struct
import zlib
from pathlib import Path

from PIL import Image

from lwm.data.task_sources.expressions import read_expressions
from lwm.data.task_sources.names import read_names
from lwm.data.task_sources.prompts import transcripts
from lwm.data.task_sources.reading import Reading
from lwm.data.task_sources.stamps import read_stamps
from lwm.data.task_sources.verses import read_verses
from tests.fuzz.target import Target

_SPANISH = "sword-text-sparv/usr/share/sword/modules/texts/ztext/spaRV"
_ENGLISH = "sword-text-kjv/usr/share/sword/modules/texts/ztext/engKJV"
_COMMON = "unicode-cldr-core/usr/share/unicode/cldr/common"
_STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
_NAMES = """<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE ldml SYSTEM "../../common/dtd/ldml.dtd">
<ldml><localeDisplayNames><territories><territory type="FR">France</territory>
<territory type="IT" alt="long">Italy</territory></territories></localeDisplayNames>
<units><unitLength type="long"><unit type="day"><displayName>days</displayName></unit></unitLength></units>
</ldml>"""
_EMOJI = """<?xml version="1.0" encoding="UTF-8"?>
<ldml><annotations><annotation cp="\U0001f408" type="tts">cat</annotation>
<annotation cp="\U0001f1eb\U0001f1f7" type="tts">flag: France</annotation></annotations></ldml>"""
_BOMB = """<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<ldml><annotations><annotation cp="x" type="tts">&b;&b;&b;&b;</annotation></annotations></ldml>"""
_CODE = """import os
value = os.path.join(folder, 'init.tcl')
if value + other[1]:
    call(not x, *rest, **more)
numbers = [one for one in range(1, 1_000) if one % 2]
text = f"{value!r:>10} and {value}"
"""


def _module() -> dict[str, bytes]:
    """The files of a testament, by their endings."""
    texts = [b"", b"<title>Uno</title>sol", b"luna <note>n</note> &amp; mar"]
    whole = b"".join(texts)
    packed = zlib.compress(whole)
    places = [(0, len(b"".join(texts[:at])), len(text)) for at, text in enumerate(texts)]
    return {
        "bzz": packed,
        "bzs": struct.pack("<III", 0, len(packed), len(whole)),
        "bzv": b"".join(struct.pack("<IIH", *place) for place in places),
    }


def _lay_modules(folder: Path) -> None:
    for module in (_SPANISH, _ENGLISH):
        (folder / module).mkdir(parents=True, exist_ok=True)
        for testament in ("ot", "nt"):
            for suffix, content in _module().items():
                (folder / module / f"{testament}.{suffix}").write_bytes(content)


def _lay_names(folder: Path) -> None:
    for part, text in (("annotations", _EMOJI), ("annotationsDerived", _EMOJI), ("main", _NAMES)):
        (folder / _COMMON / part).mkdir(parents=True, exist_ok=True)
        for language in ("en", "fr"):
            (folder / _COMMON / part / f"{language}.xml").write_text(text)


def _lay_stamp(folder: Path) -> None:
    Image.new("RGB", (4, 4)).save(folder / _STAMPS / "animals" / "cat.png")


def _listing() -> bytes:
    return b"; spoken\nbeep: [a tone]\nvm/cat: Press the cat now (beep).\n"


def _package(path: Path) -> Path:
    """The sandbox, from a file in a package."""
    return next(one for one in path.parents if one.name == "inside")


def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _verses(path: Path) -> None:
    list(read_verses(Reading(str(_package(path)))))


def _transcripts(path: Path) -> None:
    transcripts(path, Reading(""))


_XML = (_NAMES.encode(), _EMOJI.encode(), _BOMB.encode())
TARGETS = (
    *(
        Target(
            f"verses_{suffix}",
            f"{_SPANISH}/ot.{suffix}",
            lambda own=suffix: [_module()[own]],
            _verses,
            8,
            _lay_modules,
        )
        for suffix in _module()
    ),
    Target(
        "names",
        f"{_COMMON}/main/en.xml",
        lambda: list(_XML),
        lambda path: list(read_names(Reading(str(_package(path))))),
        8,
        lay=_lay_names,
    ),
    Target(
        "stamp_captions",
        f"{_STAMPS}/animals/cat.txt",
        lambda: ["A caf\u00e9 cat.\nes.utf8=x\n".encode()],
        lambda path: list(read_stamps(Reading(str(_package(path)), resolution=8))),
        5,
        lay=_lay_stamp,
    ),
    Target("listing", "x.txt", lambda: [_listing()], _transcripts, 10),
    Target("listing_gz", "x.txt.gz", lambda: [_zipped(_listing()), _zipped(bytes(10**6))], _transcripts, 8),
    Target(
        "expressions",
        "library/x.py",
        lambda: [_CODE.encode()],
        lambda path: list(read_expressions(Reading("", library=str(path.parent)))),
        10,
    ),
)
