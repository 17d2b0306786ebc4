"""Which positions a device of the ring holds, and which of its queries meet which keys of another device.

A sequence lies over the n devices of a ring in one of two layouts.
    contiguous  Device i holds chunk i of n.
    zigzag      Stripes are dealt out to and fro: of every 2n, device i holds number i ("low") and number
                2n - 1 - i ("high"). Its low ones are the first half of its shard, its high ones the second.
One turn, 2n stripes in all, balances causal masks. Many turns do so as well, and even out documents packed
into one sequence, as dealing tokens out in turn does (Striped Attention, arXiv 2311.09431); without turning
back, later devices would see more.

A meeting is one call of `attend_block`: a run of queries, a run of keys, where each begins in the shard and
in the whole sequence, and the mask between them. Device numbers may be Python integers or traced values, so
the same arithmetic runs in the kernel and counts its blocks on the host.
"""

import dataclasses
from typing import NamedTuple

import jax

from lwm.ops.masks import Mask
from lwm.ops.stripes import GAPLESS, Stripes

Number = int | jax.Array
LAYOUTS = ("zigzag", "contiguous")


class Run(NamedTuple):
    """`length` positions from `offset` of a shard, the first at `start` of the sequence; consecutive ones, or
    with the gaps of the layout's stripes."""

    offset: Number
    length: int
    start: Number


class Meeting(NamedTuple):
    """Queries of one device and keys of another that are to be attended to under a mask."""

    queries: Run
    keys: Run
    mask: Mask


@dataclasses.dataclass(frozen=True)
class Shards:
    """How a sequence lies over a ring.

    Attributes:
      n: devices in the ring.
      length: positions that each of them holds.
      layout: "zigzag" or "contiguous"; the same for n = 1.
      mask: who sees whom.
      exact_positions: meetings must never join runs that do not follow each other in the sequence, even where
        the mask would allow it (dropout depends on positions).
      stripe: positions in a stripe of zigzag, a divisor of `length / 2`; 0 = all of them, one turn.
    """

    n: int
    length: int
    layout: str
    mask: Mask
    exact_positions: bool = False
    stripe: int = 0

    @property
    def stripes(self) -> Stripes:
        """Gaps in the positions of a run."""
        return Stripes(self.stripe, 2 * self.n * self.stripe) if self._turns > 1 else GAPLESS

    @property
    def first_half(self) -> int:
        """Positions in the first half of every run: whole stripes if there are several in it."""
        stripe = self.stripes.length or 1
        return self._run_length // stripe // 2 * stripe

    @property
    def hops(self) -> int:
        """How many other devices' keys can be visible at all: n - 1, or what a window reaches."""
        if self.mask.window and self.mask.frame == 1 and self.layout == "contiguous":
            return min(self.n - 1, -(-(self.mask.window - 1) // self.length))
        return self.n - 1

    def runs(self, device: Number) -> list[Run]:
        """The low and the high run of a device; the only one in other layouts than zigzag."""
        if not self._zigzag:
            return [Run(0, self.length, device * self.length)]
        return [self._run(device, which) for which in (0, 1)]

    def own(self, device: Number) -> list[Meeting]:
        """Meetings of a shard with itself, by halves; the first can be done long before the others."""
        runs = self.runs(device)
        if self.n == 1:
            return [Meeting(runs[0], runs[0], self.mask)]
        low, high = runs if self._zigzag else self._cut_in_two(runs[0])
        if self._cut_between(low.length) and self._cut_between(self.length):
            meetings = [(high, low, self._open), (low, low, self.mask), (high, high, self.mask)]
        else:
            pairs = [(high, low), (low, low), (high, high)]
            if self.mask.everything or self.mask.frame > 1 or self._turns > 1:
                pairs.append((low, high))
            meetings = [(q, k, self.mask) for q, k in pairs]
        return [Meeting(*meeting) for meeting in meetings if meeting[0].length and meeting[1].length]

    def hop(self, me: Number, them: Number, part: int | None = None) -> list[Meeting]:
        """Meetings of the queries of one device with the keys of another one.

        Args:
          me, them: numbers of the devices on the ring, not equal.
          part: 0 or 1 where only the first or second half of every run of keys has come (the offsets are
            then those in an array of these halves), None where all have.
        """
        queries, keys = self.runs(me), self.runs(them)
        later = (them > me) * 1
        if self._zigzag and self._cut_between(self.length // 2):
            # Of a device before me, the low run is seen by both of mine; of one after me, both runs are seen
            # by my high one. So (high, low) and one more, always wholly visible.
            pairs = [(queries[1], keys[0]), (self._run(me, later), self._run(them, later))]
            mask = self._open
        elif self.mask.everything and not self.exact_positions:
            pairs, mask = [(Run(0, self.length, 0), Run(0, self.length, 0))], self.mask
        else:
            pairs, mask = [(q, k) for q in queries for k in keys], self.mask
        if part is not None:
            pairs = [(q, self._half(k, part)) for q, k in pairs]
        return [Meeting(q, k, mask) for q, k in pairs if k.length]

    def halves(self, x, axis: int = 0) -> list:
        """The first and the second half of every run of a shard, along an axis of an array."""
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        runs = x.reshape(*before, -1, self._run_length, *after)
        cut, up_to_it = self.first_half, (slice(None),) * (axis + 1)
        parts = runs[*up_to_it, :cut], runs[*up_to_it, cut:]
        return [part.reshape(*before, -1, *after) for part in parts]

    @property
    def _zigzag(self) -> bool:
        return self.layout == "zigzag" and self.n > 1

    @property
    def _run_length(self) -> int:
        return self.length // 2 if self._zigzag else self.length

    @property
    def _turns(self) -> int:
        return self._run_length // self.stripe if self._zigzag and self.stripe else 1

    @property
    def _open(self) -> Mask:
        return Mask(causal=False, ordered=self.mask.ordered, frame_bits=self.mask.frame_bits)

    def _cut_between(self, length: int) -> bool:
        """Whether of positions around a cut at any multiple of `length` just the later see the earlier."""
        plain = self.mask.causal and not self.mask.window and self._turns == 1
        return plain and length % self.mask.frame == 0

    def _run(self, device: Number, which: Number) -> Run:
        """The low (0) or high (1) stripes of a device in zigzag layout."""
        length, number = self._run_length, which * (2 * self.n - 1) + (1 - 2 * which) * device
        return Run(which * length, length, number * (self.stripes.length or length))

    def _half(self, run: Run, part: int) -> Run:
        """The first or second half of every run of keys in `run`, which is one or several of them."""
        whole, first = self._run_length, self.first_half
        size = (first, whole - first)[part]
        start = self.stripes.position(run.start, part * first)
        return Run(run.offset // whole * size, run.length // whole * size, start)

    def _cut_in_two(self, run: Run) -> tuple[Run, Run]:
        """Halves of the only run of a shard."""
        first = self.first_half
        return Run(0, first, run.start), Run(first, run.length - first, run.start + first)
