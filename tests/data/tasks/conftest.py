"""A few tiny packages in the formats of the real ones, and the folder of tasks that is made from them."""

import gzip
import struct
import wave
import zlib

import numpy as np
import pytest
from PIL import Image

from lwm.data.task_preparation import prepare_tasks

RESOLUTION, RATE, LIMITS = 8, 100, {"max_source": 40, "max_target": 48, "max_seconds": 2.0}
ANIMALS = ("cat", "dog", "owl", "frog", "goat", "hen", "newt", "seal", "toad", "wolf")
PAIRS = {"sun": "sol", "moon": "luna", "sea": "mar", "fire": "fuego", "water": "agua", "bread": "pan"}
VERBS = ("sees", "loves", "makes", "takes", "finds", "gives")


def _write_module(folder, verses, blocks=2):
    """Writes verses {testament: {number: OSIS}} as a SWORD zText module."""
    folder.mkdir(parents=True)
    for testament, texts in verses.items():
        parts, index = [b""] * blocks, []
        for number in range(max(texts) + 1):
            text, block = texts.get(number, "").encode(), number % blocks
            index.append(struct.pack("<IIH", block, len(parts[block]), len(text)))
            parts[block] += text
        packed = [zlib.compress(part) for part in parts]
        starts = np.cumsum([0, *map(len, packed)])
        (folder / f"{testament}.bzz").write_bytes(b"".join(packed))
        (folder / f"{testament}.bzv").write_bytes(b"".join(index))
        sizes = zip(starts, packed, parts, strict=False)
        (folder / f"{testament}.bzs").write_bytes(
            b"".join(struct.pack("<III", start, len(pack), len(part)) for start, pack, part in sizes)
        )


def _write_wav(path, samples, *, rate=RATE, channels=1, width=2):
    """Writes int samples [n, channels] or [n] as PCM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(np.asarray(samples, "<i2" if width == 2 else np.uint8).tobytes())


def _write_stamps(folder):
    root = folder / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for category, colour in (("animals", "red"), ("symbols", "blue")):
        (root / category / "all").mkdir(parents=True)
        for at, name in enumerate(ANIMALS):
            path = root / category / "all" / f"{name}.png"
            Image.new("RGBA", (12, 6), colour).save(path)
            # The first is on both sides of the folder, in other words than those that a stamp is known by.
            caption = f"A {name}." if category == "animals" or at == 0 else f"The {name} letter."
            path.with_suffix(".txt").write_text(f"{caption}\nes.utf8=…\n")
    Image.new("RGB", (4, 4)).save(root / "animals" / "cat_mirror.png")


def _write_verses(folder):
    modules, english, spanish = "usr/share/sword/modules/texts/ztext", {}, {}
    for number, (one, other) in enumerate((a, b) for a in PAIRS for b in PAIRS):
        verb = VERBS[number % 6]
        english[number + 2] = f"<w lemma='x'>The {one}</w> {verb} the {other}.<note>or {verb}</note> \u00b6"
        spanish[number + 2] = f"<title>Uno</title>{PAIRS[one]} {verb[:-1]}ar <w>{PAIRS[other]}</w> &amp; fin."
    english[1], english[99] = "<title>Head</title>", "Only here."
    halves = [{"ot": one, "nt": {4: one[3]}} for one in (english, spanish)]  # a verse that is said twice
    _write_module(folder / "sword-text-kjv" / modules / "engKJV", halves[0])
    _write_module(folder / "sword-text-sparv" / modules / "spaRV", halves[1])


def _write_names(folder):
    common = folder / "unicode-cldr-core/usr/share/unicode/cldr/common"
    days = '<unitLength type="{}"><unit type="time-day"><displayName>{}</displayName></unit></unitLength>'
    for language, le in (("en", "the"), ("fr", "le")):
        for part in ("annotations", "annotationsDerived", "main"):
            (common / part).mkdir(parents=True, exist_ok=True)
        names = [(chr(0x1F400 + at), f"{le} {name}") for at, name in enumerate(ANIMALS)]
        names += [("\U0001f468\u200d\U0001f680", f"{le} man\u202f: rocket"), ("\U0001f680", f"{le} rocket")]
        lines = [f'<annotation cp="{emoji}" type="tts">{name}</annotation>' for emoji, name in names]
        lines += ['<annotation cp="\U0001f400">a | b</annotation>']
        text = f"<ldml><annotations>{''.join(lines)}</annotations></ldml>"
        (common / "annotations" / f"{language}.xml").write_text(text)
        flag = '<annotation cp="\U0001f1eb\U0001f1f7" type="tts">{}: France</annotation>'
        toned = '<annotation cp="\U0001f44d\U0001f3fb" type="tts">thumb: light</annotation>'
        text = f"<ldml><annotations>{flag.format(le)}{toned}</annotations></ldml>"
        (common / "annotationsDerived" / f"{language}.xml").write_text(text)
        text = f"""<ldml><localeDisplayNames><territories>
            <territory type="FR">{le} France</territory><territory type="IT" alt="long">{le} Italy</territory>
            <territory type="XX">↑↑↑</territory></territories></localeDisplayNames><units>
            {"".join(days.format(*form) for form in (("long", f"{le} days"), ("short", f"{le} d")))}
            </units></ldml>"""
        (common / "main" / f"{language}.xml").write_text(text)


def _write_prompts(folder):
    voice = folder / "asterisk-core-sounds-en-wav/usr/share/asterisk/sounds/en_US"
    lines = ["; spoken", "", "beep: [a tone]", "silence/1: (1 second of silence)", "gone: Not there."]
    for at, name in enumerate(ANIMALS):
        _write_wav(voice / "vm" / f"{name}.wav", 3000 * np.sin(np.arange(40 + 10 * at)))
        lines.append(f"vm/{name}: Press the {name} [!] now: {at}.  (beep)")
    _write_wav(voice / "beep.wav", np.ones(20))
    path = folder / "asterisk-core-sounds-en/usr/share/doc/asterisk/core-sounds-en.txt.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def _write_library(folder):
    (folder / "library" / "test").mkdir(parents=True)
    for name in ANIMALS:
        code = (
            f"value = {name}.first({name}, 1)\nx = {name}\nif value + {name}[1]:\n    return_{name}(not x)\n"
        )
        (folder / "library" / f"{name}.py").write_text(code + "value = shared.everywhere()\n")
    (folder / "library" / "test" / "left.py").write_text("value = left_out.entirely()")


def _options(folder, output, **changes):
    """Arguments of `prepare_tasks` for such packages."""
    settings = {"resolution": RESOLUTION, "rate": RATE, "vocab_size": 320, "heldout": 0.3, **LIMITS}
    return {"sources": str(folder), "output": output, "library": f"{folder}/library", **settings, **changes}


def _fill(folder):
    """Lays out all packages in a folder."""
    for write in (_write_stamps, _write_verses, _write_names, _write_prompts, _write_library):
        write(folder)
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    return _fill(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def tasks_dir(packages, tmp_path_factory):
    """All tasks of `packages`, prepared."""
    output = tmp_path_factory.mktemp("tasks") / "data"
    prepare_tasks(**_options(packages, output))
    return output


@pytest.fixture(scope="session")
def options():
    """`options(folder, output, **changes)`: arguments of `prepare_tasks`."""
    return _options


@pytest.fixture(scope="session")
def fill():
    """`fill(folder)` lays out tiny packages."""
    return _fill


@pytest.fixture(scope="session")
def write_wav():
    """`write_wav(path, samples, rate=…, channels=1, width=2)` writes PCM."""
    return _write_wav
