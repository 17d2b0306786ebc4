"""The rates of a machine, found from cross-attentions that were timed on it.

Time is linear in seconds a FLOP (forward, backward), a visit, a byte, a hop and a call, once it is known of
each phase whether the device or its link takes longer. So: assume it, solve, look again; for several degrees
of overlap, of which the one with the smallest error is kept. Errors are relative, so that a millisecond
counts as much as seconds, and their absolute values are made small, not their squares: a row that something
disturbed should not bend the others. Every link has a bandwidth and a latency of its own; all else is shared.

Where it was also timed how long a row takes with nothing sent, its operations take as long as that says, and
`flops` is 1: how fast a core is depends on what fits its caches, and no single rate says it.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lwm.scaling.cross_attention_time import Phase, Rates, Shape, lasts, spent, whole_trip

OVERLAPS = tuple(step / 10 for step in range(11))
TURNS = 30  # of assuming and solving
SMALL = 0.01  # errors below count alike


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cross-attention that was timed.

    Attributes:
      way: of `cross_attention_time.WAYS`.
      training: forward and backward; else forward alone.
      link: name of the link between the devices, such as its nominal rate.
      seconds: of one call.
      alone: seconds of the same call with nothing sent, None if that was not timed.
    """

    way: str
    shape: Shape
    training: bool
    link: str
    seconds: float
    alone: float | None = None

    def trip(self) -> list[Phase]:
        """The phases of the call; with `alone` their work is in seconds."""
        found = whole_trip(self.way, self.shape, training=self.training)
        if self.alone is None:
            return found
        second = sum(phase.work + phase.work_back for phase in found) / self.alone
        return [
            dataclasses.replace(phase, work=phase.work / second, work_back=phase.work_back / second)
            for phase in found
        ]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
      rates: by the name of the link; the rates differ in bandwidth and latency alone.
      errors: of each row, predicted over measured less 1.
      overlaps: the mean size of the errors for every degree of overlap that was tried, each with the rates
        that suit it best: where they hardly differ, the rows do not say how much is hidden.
    """

    rates: dict[str, Rates]
    errors: tuple[float, ...]
    overlaps: dict[float, float] = dataclasses.field(default_factory=dict)

    def predict(self, row: Measured) -> float:
        """Seconds that the model expects of a row, measured or not."""
        return lasts(row.trip(), self.rates[row.link])

    def within(self, share: float) -> float:
        """Share of the rows whose error is at most `share` in either direction."""
        return sum(abs(error) <= share for error in self.errors) / len(self.errors)


def calibrate(rows: Sequence[Measured]) -> Calibration:
    """The rates under which the model comes closest to what was measured.

    Args:
      rows: of devices that are alike and share a machine in the same way: those of one `n`. A bandwidth is
        found only of links over which enough is sent; what has no influence at all is infinitely fast.
        Either all of them have `alone` or none has.

    Raises:
      ValueError: no rows, a row that took no time, or `alone` of some rows only.
    """
    if not rows:
        raise ValueError("rows: none; nothing to calibrate on")
    if bad := [row for row in rows if not row.seconds > 0]:
        raise ValueError(f"seconds: {bad[0].seconds} of {bad[0].way}; must be above 0")
    if len({row.alone is None for row in rows}) > 1:
        raise ValueError("alone: None of some rows; time all of them alone or none")
    links = list(dict.fromkeys(row.link for row in rows))
    tried = {overlap: _solve(rows, links, overlap) for overlap in OVERLAPS}
    best = min(tried.values(), key=_total)
    means = {overlap: _total(found) / len(rows) for overlap, found in tried.items()}
    return dataclasses.replace(best, overlaps=means)


def _solve(rows: Sequence[Measured], links: list[str], overlap: float) -> Calibration:
    trips = [row.trip() for row in rows]
    wanted = np.array([row.seconds for row in rows])
    longer = [[True] * len(trip) for trip in trips]  # whether computing takes longer than sending
    weights, best = np.ones(len(rows)), None
    for turn in range(TURNS):
        # First as if nothing overlapped, then as it does: a start that favours neither side.
        hidden = overlap if turn else 0.0
        table = np.array(
            [
                _row(trip, own, links.index(row.link), len(links), hidden)
                for row, trip, own in zip(rows, trips, longer, strict=True)
            ]
        )
        rates = _rates(_positive(table / wanted[:, None], weights), links, overlap)
        pairs = [(trip, rates[row.link]) for row, trip in zip(rows, trips, strict=True)]
        found = [lasts(trip, own) for trip, own in pairs]
        errors = np.array(found) / wanted - 1
        now = Calibration(rates, tuple(map(float, errors)))
        best = min(filter(None, (best, now)), key=_total)
        longer = [[_computes(phase, own) for phase in trip] for trip, own in pairs]
        weights = 1 / np.sqrt(np.maximum(np.abs(errors), SMALL))
    return best


def _row(trip, longer: list[bool], link: int, links: int, overlap: float) -> np.ndarray:
    """How often a trip counts each unknown, in the order of `_rates`."""
    row = np.zeros(5 + 2 * links)
    row[3] = 1
    for phase, computes in zip(trip, longer, strict=True):
        computing, sending = (1, 1 - overlap) if computes else (1 - overlap, 1)
        row[0] += computing * phase.work
        row[1] += computing * phase.work_back
        row[2] += computing * phase.visits
        # Without overlap nothing tells a byte in the device from one on the link.
        row[4] += computing * phase.load * (overlap > 0)
        row[5 + link] += sending * phase.load
        row[5 + links + link] += sending * phase.hops
    return row


def _positive(table: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """x >= 0 with table @ x close to 1, where weights are large above all; what would be negative is 0."""
    scale = np.abs(table).max(axis=0)
    kept = np.flatnonzero(scale)
    x = np.zeros(table.shape[1])
    while len(kept):
        part = np.linalg.lstsq(table[:, kept] / scale[kept] * weights[:, None], weights, rcond=None)[0]
        if part.min() >= 0:
            x[kept] = part / scale[kept]
            break
        kept = np.delete(kept, part.argmin())
    return x


def _rates(x: np.ndarray, links: list[str], overlap: float) -> dict[str, Rates]:
    flop, back, visit, call, copy, *rest = (float(value) for value in x)
    byte, hop = rest[: len(links)], rest[len(links) :]
    backward = back / flop if flop and back else 1.0  # rows of the forward alone say nothing of it

    def speed(cost: float) -> float:
        return 1 / cost if cost else math.inf

    return {
        link: Rates(speed(flop), speed(cost), wait, visit, call, copy, backward, overlap)
        for link, cost, wait in zip(links, byte, hop, strict=True)
    }


def _computes(phase, rates: Rates) -> bool:
    computing, sending = spent(phase, rates)
    return computing >= sending


def _total(found: Calibration) -> float:
    return sum(map(abs, found.errors))
