"""Names in English and French from Unicode's common locale data: emoji, languages, countries, currencies, …

What names the same thing has one base: the emoji of a flag and its country; the three times of a time zone;
a woman, a man and a person of the same trade. Emoji with a skin tone are left out: their names are those of
the emoji without, with one of five endings.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from lwm.data.task_records import Record
from lwm.data.task_sources.reading import Reading, one_line
from lwm.errors import UserError

_EMOJI = ("annotations", "annotationsDerived")
# Elements of main/*.xml that hold names: what they name, by path and the attributes on it.
_NAMES = {
    "language": "localeDisplayNames/languages/language",
    "script": "localeDisplayNames/scripts/script",
    "territory": "localeDisplayNames/territories/territory",
    "variant": "localeDisplayNames/variants/variant",
    "setting": "localeDisplayNames/types/type",
    "group": "characterLabels/characterLabel",
    "style": "typographicNames/styleName",
    "feature": "typographicNames/featureName",
    "currency": "numbers/currencies/currency/displayName",
    "time": "dates/timeZoneNames/metazone/long/*",
    "unit": "units/unitLength/unit/displayName",
}
_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_PEOPLE = re.compile("[\U0001f468\U0001f469\U0001f9d1\u2640\u2642\ufe0f\u200d]")  # man, woman, adult, signs
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]{2}")


def read_names(reading: Reading) -> Iterator[Record]:
    """Yields source (English) and target (French)."""
    common = reading.find("unicode-cldr-core", "usr/share/unicode/cldr/common")
    seen = set()
    for part in (*_EMOJI, "main"):
        english, french = (_names(common / part / f"{language}.xml", reading) for language in ("en", "fr"))
        for key, (base, name) in english.items():
            if key in french and (pair := (name, french[key][1])) not in seen:
                seen.add(pair)
                yield Record(key=f"name:{key}", base=f"name:{base}", source=pair[0], target=pair[1])


def base_of_emoji(emoji: str) -> str:
    """Returns "emoji:X", X the code point that says most of it, or "territory:XX" for a flag."""
    if _FLAG.fullmatch(emoji):
        return "territory:" + "".join(chr(ord(letter) - 0x1F1E6 + ord("A")) for letter in emoji)
    return f"emoji:{(_PEOPLE.sub('', emoji) or emoji)[0]}"


def _names(path: Path, reading: Reading) -> dict[str, tuple[str, str]]:
    """Base and name by key; nothing if the file is damaged and that may be."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        reason = f"sources: {path} cannot be read ({error}); fetch it again or pass --skip_damaged"
        reading.damaged(UserError(reason))
        return {}
    return dict(_of_emoji(root) if root.find("annotations") is not None else _of_things(root))


def _of_emoji(root: ElementTree.Element) -> Iterator[tuple[str, tuple[str, str]]]:
    for element in root.iterfind("annotations/annotation[@type='tts']"):
        emoji = element.get("cp", "")
        if emoji and element.text and not (_TONES.search(emoji) and len(emoji) > 1):
            yield f"emoji:{emoji}", (base_of_emoji(emoji), one_line(element.text))


def _of_things(root: ElementTree.Element) -> Iterator[tuple[str, tuple[str, str]]]:
    for thing, path in _NAMES.items():
        for first, element in _walk(root, path.split("/"), ""):
            text = one_line(element.text or "")
            forms = [element.tag, *(element.get(name) for name in ("key", "subtype", "count", "alt"))]
            if len(text) > 2 and "\u2191" not in text:  # arrows: as in another language
                name = f"{thing}:{first}"
                yield ":".join((name, *filter(None, forms))), (name, text)


def _walk(
    element: ElementTree.Element, path: list[str], first: str
) -> Iterator[tuple[str, ElementTree.Element]]:
    """The elements at a path, each with the last type on it; of units only those written out."""
    if not path:
        yield first, element
        return
    for child in element.iterfind(path[0]):
        if child.tag == "unitLength" and child.get("type") != "long":
            continue
        yield from _walk(child, path[1:], child.get("type") or first)
