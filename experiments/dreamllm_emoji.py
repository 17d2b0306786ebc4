"""Emoji of people and hands in all skin tones, some pairs of emoji and tone held out: the composition test.

    launch/task_sources.sh runs/tasks
    python -m experiments.dreamllm_emoji --sources=runs/tasks --output=runs/dreamllm/emoji

stamps      a picture and its name: "waving hand, dark skin tone"
questions   "What is this?" (the emoji without its tone) and "Which tone is this?" behind a picture

Every emoji and every tone is learned, in other pairs than those that are held out. Drawn from Noto Color
Emoji, named by Unicode's common locale data. Needs Pillow with Raqm, which its wheels have.
"""

import argparse
import io
import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from PIL import Image, ImageDraw, ImageFont, features

from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.task_sources.reading import Reading
from lwm.errors import UserError

EMOJI, TONES = 60, ("", *"\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff")
_SIZE, _BOX = 109, 136  # of the bitmaps in the font, in pixels, and of what they fit into


class Toned(NamedTuple):
    """emoji: as text · name: "waving hand" · tone: "dark skin tone", or "no skin tone"."""

    emoji: str
    name: str
    tone: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sources", required=True, help="what launch/task_sources.sh has made")
    parser.add_argument("--output", required=True, help="the folder to be made")
    parser.add_argument("--resolution", type=int, default=32, help="side of the pictures in pixels")
    parser.add_argument("--heldout", type=float, default=0.2, help="share of the pairs that is held out")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out")
    chosen = parser.parse_args()
    try:
        folder, reading = Path(f"{chosen.output}.pages"), Reading(chosen.sources, chosen.resolution)
        lay_out(list(toned(reading)), reading, folder, chosen.heldout, chosen.seed)
        whole = {"input": str(folder), "output": chosen.output, "heldout": 0.0}
        done = prepare_pages(**whole, resolution=chosen.resolution)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for source, by_split in done["pages"].items():
        print(f"{source}: " + "; ".join(f"{split} {counts}" for split, counts in by_split.items()))


def toned(reading: Reading) -> Iterator[Toned]:
    """Yields EMOJI emoji of one code point in all of TONES, evenly taken from those that there are."""
    names: dict[str, str] = {}
    for part in ("annotations", "annotationsDerived"):
        path = reading.find("unicode-cldr-core", f"usr/share/unicode/cldr/common/{part}/en.xml")
        for element in ElementTree.parse(path).getroot().iterfind("annotations/annotation[@type='tts']"):
            names[element.get("cp", "")] = element.text or ""
    bases = sorted(name[0] for name in names if re.fullmatch(f".[{''.join(TONES)}]", name))
    # Names with a colon would have more than a tone behind it.
    whole = (base for base in dict.fromkeys(bases) if all(base + tone in names for tone in TONES))
    bases = [base for base in whole if ":" not in names[base]]
    if len(bases) < EMOJI:
        raise UserError(f"sources: {len(bases)} emoji with skin tones, but {EMOJI} are needed; fetch anew")
    for base in bases[:: len(bases) // EMOJI][:EMOJI]:
        for tone in TONES:
            said = names[base + tone].rpartition(": ")[2] if tone else "no skin tone"
            yield Toned(base + tone, names[base], said)


def lay_out(emoji: list[Toned], reading: Reading, folder: Path, heldout: float, seed: int) -> None:
    """Writes the pictures, and a manifest for each source."""
    (folder / "emoji").mkdir(parents=True, exist_ok=True)
    if not features.check("raqm"):
        raise UserError("sources: Pillow lacks Raqm, without which tones are not joined; install its wheel")
    pattern = "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    path = str(reading.find("fonts-noto-color-emoji", pattern))
    font = ImageFont.truetype(path, _SIZE, layout_engine=ImageFont.Layout.RAQM)
    manifests: dict[str, list[dict]] = {"stamps": [], "questions": []}
    pairs = [number for number, one in enumerate(emoji) if one.tone != "no skin tone"]
    held = set(random.Random(seed).sample(pairs, round(heldout * len(pairs))))
    for number, one in enumerate(emoji):
        path = f"emoji/{number:04d}.png"
        (folder / path).write_bytes(drawn(one.emoji, font, reading.resolution))
        split = {"split": "heldout" if number in held else "train"}
        image = {"path": path, "position": 1}
        manifests["stamps"].append(split | {"texts": [f"{one.name}, {one.tone}"], "images": [image]})
        for asked, answer in (("What is this? ", one.name), ("Which tone is this? ", one.tone)):
            seen = {"texts": [asked, answer], "images": [image | {"position": 0}], "learned": [False, True]}
            manifests["questions"].append(split | seen)
    for source, lines in manifests.items():
        text = "".join(json.dumps(line | {"source": source}) + "\n" for line in lines)
        (folder / f"{source}.jsonl").write_text(text, encoding="utf-8")


def drawn(emoji: str, font: ImageFont.FreeTypeFont, side: int) -> bytes:
    """A PNG of it on white."""
    image = Image.new("RGB", (_BOX, _BOX), "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), emoji, font=font, embedded_color=True)
    at = ((_BOX - left - right) / 2, (_BOX - top - bottom) / 2)
    draw.text(at, emoji, font=font, embedded_color=True)
    content = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(content, "PNG")
    return content.getvalue()


if __name__ == "__main__":
    main()
