"""How far a long job is, as lines for a log; who has a terminal hands in a bar of the same form instead."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator

Track = Callable[[Iterable, str, int, str], Iterator]  # items, label, total, unit -> the items again
_SECONDS = 5  # from one line to the next


def lines(items: Iterable, label: str, total: int, unit: str) -> Iterator:
    """Yields `items` and says on stderr, now and then and at the end, how many of `total` have passed."""
    shown, done = time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - shown > _SECONDS and done < total:
            shown = time.monotonic()
            print(f"{label}: {done} of {total} {unit}", file=sys.stderr, flush=True)
    if total:
        print(f"{label}: {done} {unit}", file=sys.stderr, flush=True)
