"""Makes the data of MultiModel: eight real tasks over four modalities, in one vocabulary and one split.

    launch/task_sources.sh runs/tasks
    python -m experiments.multimodel_data --sources=runs/tasks --output=runs/multimodel/data

stamp_class, stamp_caption        pictures of Tux Paint to their category, to what they show
spanish_english, english_spanish  verses of the Bible
english_french, french_english    names of emoji, languages, currencies, …
speech                            spoken prompts of a telephone exchange to their words
parsing                           expressions of Python's standard library to their trees

An item (a verse, a thing that has a name, a file of the library) is held out from all tasks or from none, and
so are items that share words. Samples that are too long are left out and counted, in tasks.json.
"""

import argparse
import sys
import time

from lwm.data.task_preparation import prepare_tasks
from lwm.data.workers import check_workers
from lwm.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sources", required=True, help="what launch/task_sources.sh has made")
    parser.add_argument("--output", required=True, help="the folder to be made")
    parser.add_argument("--resolution", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--rate", type=int, default=8000, help="samples a second of waveforms")
    parser.add_argument("--max_source", type=int, default=64, help="tokens, with the end of text")
    parser.add_argument("--max_target", type=int, default=64, help="tokens, with the end of text")
    parser.add_argument("--max_seconds", type=float, default=6.0, help="of waveforms")
    parser.add_argument("--heldout", type=float, default=0.15, help="chance of an item to be held out")
    parser.add_argument("--seed", type=int, default=0, help="of what is held out")
    parser.add_argument("--library", default="", help="a standard library, if not that of this Python")
    parser.add_argument("--skip_damaged", action="store_true", help="leave damaged files out, and list them")
    parser.add_argument("--beam_runner", help="work on Apache Beam, as python -m lwm.prepare does")
    parser.add_argument("--beam_options", action="append", default=[], help="name=value for Beam")
    start, chosen = time.monotonic(), parser.parse_args()
    settings = vars(chosen)
    beam = settings.pop("beam_runner"), settings.pop("beam_options")
    try:
        done = prepare_tasks(**settings, workers=check_workers(*beam))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print("\n".join(table(done)))
    print(f"{chosen.output}: {time.monotonic() - start:.0f} s")


def table(done: dict) -> list[str]:
    """Lines about each task: samples, lengths as median / 95 % / longest, and what was left out."""
    head = ("task", "kind", "train", "heldout", "source", "target", "seconds", "left out")
    rows = [head]
    for name, one in done["tasks"].items():
        lengths = [" / ".join(map(str, one[field].values())) for field in ("source", "target")]
        seconds = " / ".join(f"{samples / done['rate']:.1f}" for samples in one["samples"].values())
        left = ", ".join(f"{count} {reason}" for reason, count in one["dropped"].items())
        rows.append((name, one["kind"], str(one["train"]), str(one["heldout"]), *lengths, seconds, left))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return [*lines, f"{len(done['damaged'])} damaged files", *done["damaged"]]


if __name__ == "__main__":
    main()
