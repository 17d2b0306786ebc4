"""How long a cross-attention takes over several devices, by what travels (LV-XAttn, arXiv 2502.02406).

With t = T / n queries and s = S / n keys on each of n devices, a visit of one shard to another computes
4 B t s N H floating-point operations forward and 2.5 times as many backward (five products, not two). While a
device computes, its link carries the next shard: the larger of both counts, if they overlap. So travelling
keys hide their transfers only where t >= F / bandwidth or so, travelling queries where s is, and keys are
many: that is the whole idea of the paper.

    rotate_queries  LV-XAttn
    rotate_keys     ring attention
    gather_keys     all keys first, then all computation, then the gradients of keys back
    gather_queries  all queries first, then all computation, then outputs or gradients back

The phases of a trip are those of `lwm/ops/round_trip.py`, in which the own shard is seen in two halves,
beside the first transfer and the last. Bytes are those of the program (`lwm/ops/xattn_traffic.py`, and a test
that compares them); gathered keys are sent back as gradients in their own dtype.
"""

import dataclasses
import math
from collections.abc import Iterable

WAYS = ("rotate_queries", "rotate_keys", "gather_queries", "gather_keys")
BACKWARD = 2.5  # computation of the backward over that of the forward


@dataclasses.dataclass(frozen=True)
class Shape:
    """One cross-attention: T queries of N heads look at S keys of K heads of size H, cut over n devices.

    Attributes:
      B: rows.
      itemsize: bytes of a number of q, k and v: 2 or 4.
    """

    T: int
    S: int
    N: int
    K: int
    H: int
    n: int
    B: int = 1
    itemsize: int = 4

    def __post_init__(self):
        for name, value in dataclasses.asdict(self).items():
            if value < 1:
                raise ValueError(f"{name}: {value}; must be at least 1")
        if self.N % self.K:
            raise ValueError(f"N: {self.N} query heads; must be a multiple of K={self.K} key heads")
        if self.itemsize not in (2, 4):
            raise ValueError(f"itemsize: {self.itemsize}; 2 or 4 bytes")


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a device and its link can do.

    Attributes:
      flops: floating-point operations a second in attention.
      bandwidth: bytes a second that a link carries in each direction.
      latency: seconds that a hop takes besides its bytes.
      visit: seconds that a visit takes besides its operations.
      start: seconds that a call takes besides its hops and visits.
      copy: seconds that the device itself is busy with a byte that it sends and another that it receives.
      backward: how much slower operations of the backward are than those of the forward, 1 = not at all.
      overlap: which share of the shorter of computing and sending is hidden behind the longer: 1 where both
        run at once, 0 where one waits for the other.
    """

    flops: float
    bandwidth: float
    latency: float = 0.0
    visit: float = 0.0
    start: float = 0.0
    copy: float = 0.0
    backward: float = 1.0
    overlap: float = 1.0


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch between two waits: what a device computes in it and what its link carries meanwhile.

    Attributes:
      work, work_back: floating-point operations of the forward, or of the backward.
      visits: shards looked at; a half counts as one.
      load: bytes sent.
      hops: messages, one after another.
    """

    work: float = 0.0
    work_back: float = 0.0
    visits: int = 0
    load: float = 0.0
    hops: int = 0


def messages(way: str, shape: Shape, *, backward: bool) -> tuple[int, int]:
    """Bytes of the visitor and of its result, as one device sends them in one hop (2502.02406, section 3).

    Gathering sends the same n - 1 times, all at once. The result of travelling keys is nothing forward.
    """
    B, H, w = shape.B, shape.H, shape.itemsize
    if way in ("rotate_keys", "gather_keys"):
        numbers = B * _share(shape.S, shape.n, way) * shape.K * H
        if way == "gather_keys":
            return (0, 2 * numbers * w) if backward else (2 * numbers * w, 0)
        return 2 * numbers * w, 8 * numbers * backward
    if way not in WAYS:
        raise ValueError(f"way: {way!r}; one of {', '.join(WAYS)}")
    rows = B * _share(shape.T, shape.n, way) * shape.N
    if backward:
        return rows * (2 * H * w + 8), rows * 4 * H
    return rows * H * w, rows * (2 * H + 8 if w == 2 else 4 * H + 4)


def sent(way: str, shape: Shape, *, backward: bool) -> int:
    """Bytes that a device sends in one direction of a cross-attention without segments."""
    return (shape.n - 1) * sum(messages(way, shape, backward=backward))


def phases(way: str, shape: Shape, *, backward: bool) -> list[Phase]:
    """What happens between two waits, in order.

    Raises:
      ValueError: an unknown way.
    """
    visitor, result = messages(way, shape, backward=backward)
    n, t, s = shape.n, math.ceil(shape.T / shape.n), math.ceil(shape.S / shape.n)
    work = 4 * shape.B * t * s * shape.N * shape.H

    def computing(share: float) -> dict[str, float]:
        return {"work_back": share * BACKWARD * work} if backward else {"work": share * work}

    if n == 1:
        return [Phase(**computing(1), visits=1)]
    if way.startswith("gather"):
        there, back = (Phase(load=(n - 1) * load, hops=n - 1) for load in (visitor, result))
        found = there, Phase(**computing(n), visits=n), back
        return [phase for phase in found if phase.visits or phase.load]

    def phase(share: float, visitors: int, results: int) -> Phase:
        results *= result > 0
        load = visitors * visitor + results * result
        return Phase(**computing(share), visits=1, load=load, hops=visitors + results)

    if n == 2:
        return [phase(0.5, 1, 0), phase(1, 0, 0), phase(0.5, 0, 1)]
    middle = [phase(1, 1, 1)] * (n - 3)
    return [phase(0.5, 1, 0), phase(1, 1, 0), *middle, phase(1, 0, 1), phase(0.5, 0, 1)]


def spent(phase: Phase, rates: Rates) -> tuple[float, float]:
    """Seconds for which a phase keeps the device busy, and its link."""
    computing = (phase.work + rates.backward * phase.work_back) / rates.flops
    computing += phase.visits * rates.visit + phase.load * rates.copy
    return computing, phase.load / rates.bandwidth + phase.hops * rates.latency


def lasts(trip: Iterable[Phase], rates: Rates) -> float:
    """Seconds of a call that goes through these phases."""
    total = rates.start
    for both in (spent(phase, rates) for phase in trip):
        total += max(both) + (1 - rates.overlap) * min(both)
    return total


def whole_trip(way: str, shape: Shape, *, training: bool) -> list[Phase]:
    """The phases of the forward, and behind them those of the backward if `training`.

    Raises:
      ValueError: an unknown way.
    """
    directions = (False, True) if training else (False,)
    return [phase for backward in directions for phase in phases(way, shape, backward=backward)]


def seconds(way: str, shape: Shape, rates: Rates, *, training: bool) -> float:
    """Of one cross-attention: forward, or forward and backward if `training`.

    Raises:
      ValueError: an unknown way.
    """
    return lasts(whole_trip(way, shape, training=training), rates)


def speed_up(shape: Shape, rates: Rates, *, training: bool, over: str = "rotate_keys") -> float:
    """How many times as fast LV-XAttn is as another way, by the model."""
    theirs = seconds(over, shape, rates, training=training)
    return theirs / seconds("rotate_queries", shape, rates, training=training)


def fastest(shape: Shape, rates: Rates, *, training: bool, ways: tuple[str, ...] = WAYS[:2]) -> str:
    """The way that takes least, of those asked for; the first of them where it makes no difference."""
    return min(ways, key=lambda way: seconds(way, shape, rates, training=training))


def crossover(N: int, K: int) -> float:
    """S / T at which queries and keys are as much to send: S K / N = T, but for a few numbers a row."""
    return N / K


def hidden_from(rates: Rates, *, itemsize: int = 4) -> float:
    """How many positions the shard that *stays* must have for the travelling one to be hidden.

    A visit computes 4 t s N H operations and sends 2 of its H numbers a head, so it is the t of travelling
    keys, or the s of travelling queries, that must be at least itemsize / 2 * flops / bandwidth (N = K).
    """
    return itemsize / 2 * rates.flops / rates.bandwidth


def end_to_end(share: float, speed_up: float) -> float:
    """Speed-up of a whole step, of which cross-attention took that share before (Amdahl)."""
    return 1 / (1 - share + share / speed_up)


def _share(length: int, n: int, way: str) -> int:
    """Positions of a device; what rotates has at least two (`round_trip.py`)."""
    return max(math.ceil(length / n), 2 if way.startswith("rotate") and n > 1 else 1)
