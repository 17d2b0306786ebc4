"""How far a long job is: a bar on a terminal, a line every few seconds in a log."""

import sys
import time
from collections.abc import Iterable, Iterator


def track(items: Iterable, label: str, total: int, unit: str) -> Iterator:
    """Yields `items` and shows how many of `total` have passed."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=label, total=total, console=Console(stderr=True))
        return
    if not total:
        return
    shown, done = time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - shown > 5 and done < total:
            shown = time.monotonic()
            print(f"{label}: {done} of {total} {unit}", file=sys.stderr, flush=True)
    print(f"{label}: {done} {unit}", file=sys.stderr, flush=True)
