"""Makes documents of text and pictures out of GIMP's illustrated manual: long pages as people wrote them.

    launch/task_sources.sh runs/tasks
    python -m experiments.dreamllm_manual --sources=runs/tasks --output=runs/dreamllm/manual

manual      a page of the manual: headings, paragraphs and lists, and each picture where it stands among them

Bars for going from page to page are left out with their arrows, and counted. A page is held out as a whole,
but a picture that stands on several pages, such as the sign of a note, may be in both splits.
"""

import argparse
import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.task_sources.reading import Reading
from lwm.data.workers import check_workers
from lwm.errors import UserError

PLACE = "usr/share/gimp/2.0/help/en"
# Elements behind which a new line begins.
_BLOCKS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "tr", "td", "th", "pre", "div")
)
_BARS = ("navheader", "navfooter")
_UNCLOSED = frozenset(("br", "hr", "img", "meta", "link", "col", "input"))


class ManualPage(NamedTuple):
    """texts, images: as in a manifest (`lwm/data/interleaved.py`) · bars: pictures left out with the bars."""

    texts: list[str]
    images: list[dict]
    bars: int


class _Reader(HTMLParser):
    """Collects what stands in the body of a page, in order."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.page = ManualPage([], [], 0)
        self._said: list[str] = []
        self._open: list[bool] = []  # of each open element, whether what it holds is left out

    def handle_starttag(self, tag, attrs):
        own, left_out = dict(attrs), bool(self._open and self._open[-1])
        if tag == "img":
            self._picture(own.get("src"), left_out)
        if tag == "br":
            self._said.append("\n")
        if tag not in _UNCLOSED:
            self._open.append(left_out or tag == "head" or own.get("class") in _BARS)

    def handle_endtag(self, tag):
        if tag in _UNCLOSED:
            return
        left_out = self._open.pop() if self._open else False
        if tag in _BLOCKS and not left_out:
            self._said.append("\n")

    def handle_data(self, data):
        if not (self._open and self._open[-1]):
            self._said.append(re.sub(r"\s+", " ", data))

    def end(self) -> None:
        """Lets what was said since the last picture be a text of its own."""
        text = re.sub(r" *\n[ \n]*", "\n", re.sub(r" +", " ", "".join(self._said)))
        self._said = []
        if text.strip():
            self.page.texts.append(text.lstrip(" " if self.page.texts else None))

    def _picture(self, path, left_out):
        if left_out:
            self.page = self.page._replace(bars=self.page.bars + 1)
        elif path:
            self.end()
            self.page.images.append({"path": os.path.normpath(path), "position": len(self.page.texts)})


def read_page(html: str) -> ManualPage:
    """The texts and pictures of a page, in the order in which they stand there."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.end()
    return reader.page


def lay_out(place: Path, folder: Path) -> dict[str, int]:
    """Writes a manifest of all pages in `place` and copies their pictures beside it; returns what it counted.

    Raises:
        UserError: a page shows a picture that is not there, or lies outside.
    """
    counts = dict.fromkeys(("pages", "pictures", "files", "bars", "empty"), 0)
    folder.mkdir(parents=True, exist_ok=True)
    lines, copied = [], set()
    for path in sorted(place.glob("*.html")):
        page = read_page(path.read_text(encoding="utf-8"))
        counts["bars"] += page.bars
        if not page.texts:
            counts["empty"] += 1
            continue
        for number, image in enumerate(page.images):
            source = place / image["path"]
            if not source.is_file() or not source.resolve().is_relative_to(place.resolve()):
                raise UserError(f"{path.name}: picture {number}: {image['path']} is not there; fetch anew")
            if image["path"] not in copied:
                copied.add(image["path"])
                (folder / image["path"]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / image["path"])
        counts["pages"] += 1
        counts["pictures"] += len(page.images)
        lines.append({"texts": page.texts, "images": page.images, "group": path.stem})
    counts["files"] = len(copied)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "manual.jsonl").write_text(text, encoding="utf-8")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sources", required=True, help="what launch/task_sources.sh has made")
    parser.add_argument("--output", required=True, help="the folder to be made")
    parser.add_argument("--resolution", type=int, default=32, help="side of the pictures in pixels")
    parser.add_argument("--vocab_size", type=int, default=0, help="pieces of a vocabulary; 0 = bytes")
    parser.add_argument("--heldout", type=float, default=0.1, help="share of the pages that is held out")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out")
    parser.add_argument("--beam_runner", help="work on Apache Beam, as python -m lwm.prepare does")
    parser.add_argument("--beam_options", action="append", default=[], help="name=value for Beam")
    chosen = parser.parse_args()
    folder = Path(f"{chosen.output}.pages")
    try:
        workers = check_workers(chosen.beam_runner, chosen.beam_options)
        counts = lay_out(Reading(chosen.sources).find("gimp-help-en", PLACE), folder)
        options = {"vocab_size": chosen.vocab_size, "heldout": chosen.heldout, "seed": chosen.seed}
        whole = {"input": str(folder), "output": chosen.output, "resolution": chosen.resolution}
        done = prepare_pages(**whole, **options, workers=workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    for source, by_split in done["pages"].items():
        print(f"{source}: " + "; ".join(f"{split} {own}" for split, own in by_split.items()))


if __name__ == "__main__":
    main()
