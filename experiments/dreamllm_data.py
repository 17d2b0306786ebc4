"""Makes the documents of the DreamLLM miniature: Tux Paint's stamps alone, in albums, and asked about.

    launch/task_sources.sh runs/tasks
    python -m experiments.dreamllm_data --sources=runs/tasks --output=runs/dreamllm/data

stamps      a picture and what it shows, for the form "pairs": "brown animals: A cow."
albums      a category, then three of its stamps behind their captions: "animals / brown: A cow. <picture> …"
questions   "What is this?", "Which kind is this?" or "Which colour is this?" behind a picture; only the
            answers are learned
drawings    "Draw: brown animals: A cow. ", then its picture; no text is learned

Colour and category stand in what is to be drawn as the nouns of stamps that are held out are mostly new:
without them no text says which kind and colour a drawing should have, which is what it is judged by.

Stamps with the same words in their captions are one item, which is held out from all sources or from none.
The pictures and manifests that this lays out, OUTPUT.pages, can serve as an example of a folder of one's own.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.dreamllm_colour import colour_of
from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.splits import heldout_names
from lwm.data.task_records import Record
from lwm.data.task_sources.reading import Reading
from lwm.data.task_sources.stamps import read_stamps
from lwm.data.tasks import words
from lwm.data.workers import check_workers
from lwm.errors import UserError

ALBUM, ALBUMS = 3, 4  # stamps in an album, albums that a stamp is in


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sources", required=True, help="what launch/task_sources.sh has made")
    parser.add_argument("--output", required=True, help="the folder to be made")
    parser.add_argument("--resolution", type=int, default=32, help="side of the pictures in pixels")
    parser.add_argument("--heldout", type=float, default=0.15, help="share of the items that is held out")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out, and of the albums")
    parser.add_argument("--beam_runner", help="work on Apache Beam, as python -m lwm.prepare does")
    parser.add_argument("--beam_options", action="append", default=[], help="name=value for Beam")
    chosen = parser.parse_args()
    try:
        workers = check_workers(chosen.beam_runner, chosen.beam_options)
        stamps = list(read_stamps(Reading(chosen.sources, chosen.resolution)))
        folder = Path(f"{chosen.output}.pages")
        lay_out(stamps, folder, chosen.heldout, chosen.seed)
        done = prepare_pages(
            input=str(folder),
            output=chosen.output,
            resolution=chosen.resolution,
            heldout=0.0,
            workers=workers,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for source, by_split in done["pages"].items():
        print(f"{source}: " + "; ".join(f"{split} {counts}" for split, counts in by_split.items()))
    print(f"{len(done['broken'])} broken pictures", *done["broken"], sep="\n")


def lay_out(stamps: list[Record], folder: Path, heldout: float, seed: int) -> None:
    """Writes the pictures, and a manifest for each source."""
    (folder / "stamps").mkdir(parents=True, exist_ok=True)
    held = heldout_names((words(stamp.target) for stamp in stamps), heldout, seed)
    by_split: dict[str, list[tuple[str, Record]]] = {"train": [], "heldout": []}
    for number, stamp in enumerate(stamps):
        path = f"stamps/{number:04d}.png"
        (folder / path).write_bytes(stamp.image)
        by_split["heldout" if words(stamp.target) in held else "train"].append((path, stamp))
    manifests: dict[str, list[str]] = {"stamps": [], "albums": [], "questions": [], "drawings": []}
    for split, own in by_split.items():
        made = {
            "stamps": captioned(own),
            "albums": albums(own, random.Random(f"{seed} {split}")),
            "questions": questions(own),
            "drawings": drawings(own),
        }
        for source, lines in made.items():
            about = {"source": source, "split": split}
            manifests[source] += [json.dumps(line | about, ensure_ascii=False) for line in lines]
    for source, lines in manifests.items():
        (folder / f"{source}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def told(stamp: Record) -> str:
    """What a stamp shows; colour and category first, as encoders of texts cut long ones."""
    return f"{colour_of(stamp.image)} {stamp.label}: {stamp.target}"


def captioned(stamps: Iterable[tuple[str, Record]]) -> Iterator[dict]:
    """Each stamp with its caption."""
    for path, stamp in stamps:
        yield {"texts": [told(stamp)], "images": [{"path": path, "position": 1}]}


def albums(stamps: Iterable[tuple[str, Record]], rng: random.Random) -> Iterator[dict]:
    """Stamps of one category, dealt out several times."""
    kinds: dict[str, list[tuple[str, Record]]] = {}
    for path, stamp in stamps:
        kinds.setdefault(stamp.label, []).append((path, stamp))
    for kind, own in kinds.items():
        for _ in range(ALBUMS):
            rng.shuffle(own)
            for start in range(0, len(own), ALBUM):
                some = own[start : start + ALBUM]
                told_of = [f"\n{colour_of(stamp.image)}: {stamp.target} " for _, stamp in some]
                texts = [kind + told_of[0], *told_of[1:]]
                images = [{"path": path, "position": index} for index, (path, _) in enumerate(some, start=1)]
                yield {"texts": texts, "images": images}


def questions(stamps: Iterable[tuple[str, Record]]) -> Iterator[dict]:
    """What each stamp shows, of which kind it is, and which colour it has most of."""
    for path, stamp in stamps:
        images = [{"path": path, "position": 0}]
        for asked, answer in (
            ("What is this? ", stamp.target),
            ("Which kind is this? ", stamp.label),
            ("Which colour is this? ", colour_of(stamp.image)),
        ):
            yield {"texts": [asked, answer], "images": images, "learned": [False, True]}


def drawings(stamps: Iterable[tuple[str, Record]]) -> Iterator[dict]:
    """That each stamp be drawn."""
    for path, stamp in stamps:
        images = [{"path": path, "position": 1}]
        yield {"texts": [f"Draw: {told(stamp)} "], "images": images, "learned": [False]}


if __name__ == "__main__":
    main()
