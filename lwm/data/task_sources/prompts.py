"""Asterisk's English prompts, spoken by one voice, with what she says."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from lwm import bounds
from lwm.data.task_records import Record
from lwm.data.task_sources.reading import Reading, one_line
from lwm.data.video import BrokenMedia
from lwm.data.waveforms import read_wav
from lwm.errors import UserError

_ASIDE = re.compile(r"\([^)]*\)|\[[^]]*\]")  # what is not said: "[this is a beep]", "(10 seconds of silence)"


def read_prompts(reading: Reading) -> Iterator[Record]:
    """Yields waveform and target (what is said). Tones and silence are left out."""
    listing = reading.find("asterisk-core-sounds-en", "usr/share/doc/*/core-sounds-en.txt*")
    voice = reading.find("asterisk-core-sounds-en-wav", "usr/share/asterisk/sounds/en*")
    said = transcripts(listing, reading)
    for path in sorted(voice.rglob("*.wav")):
        name = path.relative_to(voice).with_suffix("").as_posix()
        if not said.get(name):
            continue
        try:
            waveform = read_wav(path, rate=reading.rate)
        except BrokenMedia as error:
            reading.damaged(UserError(f"sources: {path} {error}; mend it or pass --skip_damaged"))
            continue
        yield Record(
            key=f"prompt:{name}",
            base=f"prompt:{name}",
            waveform=waveform,
            rate=reading.rate,
            target=said[name],
        )


def transcripts(listing: Path, reading: Reading) -> dict[str, str]:
    """Returns what is said by name of the prompt, from lines "name: text"; comments begin with ";"."""
    content = listing.read_bytes()
    try:
        if listing.suffix == ".gz":
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(bounds.UNPACKED + 1)
        if len(content) > bounds.UNPACKED:
            raise OSError(f"unpacked it is more than {bounds.UNPACKED} bytes")
        lines = content.decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reading.damaged(UserError(f"sources: {listing} cannot be read ({error}); fetch it again"))
        return {}
    pairs = (line.partition(":") for line in lines if not line.startswith(";"))
    return {name.strip(): one_line(_ASIDE.sub(" ", text)) for name, _, text in pairs}
