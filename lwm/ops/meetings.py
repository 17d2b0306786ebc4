"""Which positions a device of the ring holds, and which of its queries meet which keys of another device.

A sequence lies over the n devices of a ring in one of three layouts.
    contiguous  Device i holds chunk i of n.
    zigzag      Device i holds chunk i ("low") and chunk 2n - 1 - i ("high") of 2n. Balances causal masks.
    striped     Device i holds stripes i, n + i, 2n + i, … of equal length. Balances documents packed into one
                sequence as well (Striped Attention, arXiv 2311.09431, by blocks instead of tokens).

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
LAYOUTS = ("zigzag", "contiguous", "striped")


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
      layout: "zigzag", "contiguous" or "striped"; the same for n = 1.
      mask: who sees whom.
      stripe: positions in a stripe; a divisor of `length` in the striped layout.
      exact_positions: meetings must never join runs that do not follow each other in the sequence, even where
        the mask would allow it (dropout depends on positions).
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
        return Stripes(self.stripe, self.n * self.stripe) if self._striped else GAPLESS

    @property
    def first_half(self) -> int:
        """Positions in the first half of every chunk."""
        if self._striped:
            return self.length // self.stripe // 2 * self.stripe
        return self.length // len(self.runs(0)) // 2

    @property
    def hops(self) -> int:
        """How many other devices' keys can be visible at all: n - 1, or what a window reaches."""
        if self.mask.window and self.mask.frame == 1 and self.layout == "contiguous":
            return min(self.n - 1, -(-(self.mask.window - 1) // self.length))
        return self.n - 1

    def runs(self, device: Number) -> list[Run]:
        """The chunks of a device."""
        if self._striped:
            return [Run(0, self.length, device * self.stripe)]
        if not self._zigzag:
            return [Run(0, self.length, device * self.length)]
        return [self._chunk(device, which) for which in (0, 1)]

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
            if self.mask.everything or self.mask.frame > 1:
                pairs.append((low, high))
            meetings = [(q, k, self.mask) for q, k in pairs]
        return [Meeting(*meeting) for meeting in meetings if meeting[0].length and meeting[1].length]

    def hop(self, me: Number, them: Number, part: int | None = None) -> list[Meeting]:
        """Meetings of the queries of one device with the keys of another one.

        Args:
          me, them: numbers of the devices on the ring, not equal.
          part: 0 or 1 where only the first or second half of every chunk of keys has come (the offsets are
            then those in an array of these halves), None where all have.
        """
        queries, keys = self.runs(me), self.runs(them)
        later = (them > me) * 1
        if self._zigzag and self._cut_between(self.length // 2):
            # Of a device before me, the low chunk is seen by both of mine; of one after me, both chunks are
            # seen by my high one. So (high, low) and one more, always wholly visible.
            pairs = [(queries[1], keys[0]), (self._chunk(me, later), self._chunk(them, later))]
            mask = self._open
        elif self.mask.everything and not self.exact_positions:
            pairs, mask = [(Run(0, self.length, 0), Run(0, self.length, 0))], self.mask
        else:
            pairs, mask = [(q, k) for q in queries for k in keys], self.mask
        if part is not None:
            pairs = [(q, self._half(k, part)) for q, k in pairs]
        return [Meeting(q, k, mask) for q, k in pairs if k.length]

    def halves(self, x, axis: int = 0) -> list:
        """The first and the second half of every chunk of a shard, along an axis of an array."""
        count = len(self.runs(0))
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        chunks = x.reshape(*before, count, self.length // count, *after)
        cut, up_to_it = self.first_half, (slice(None),) * (axis + 1)
        parts = chunks[*up_to_it, :cut], chunks[*up_to_it, cut:]
        return [part.reshape(*before, -1, *after) for part in parts]

    @property
    def _zigzag(self) -> bool:
        return self.layout == "zigzag" and self.n > 1

    @property
    def _striped(self) -> bool:
        return self.layout == "striped" and self.n > 1

    @property
    def _open(self) -> Mask:
        return Mask(causal=False, ordered=self.mask.ordered, frame_bits=self.mask.frame_bits)

    def _cut_between(self, length: int) -> bool:
        """Whether of positions around a cut at any multiple of `length` just the later see the earlier."""
        plain = self.mask.causal and not self.mask.window
        return plain and (self.mask.frame == 1 or (not self._striped and length % self.mask.frame == 0))

    def _chunk(self, device: Number, which: Number) -> Run:
        """The low (0) or high (1) chunk of a device in zigzag layout."""
        length = self.length // 2
        number = which * (2 * self.n - 1) + (1 - 2 * which) * device
        return Run(which * length, length, number * length)

    def _half(self, run: Run, part: int) -> Run:
        """The first or second half of every chunk in a run that consists of chunks."""
        chunk = self.length // 2 if self._zigzag else self.length
        first = self.first_half
        size = (first, chunk - first)[part]
        start = self.stripes.position(run.start, part * first)
        return Run(run.offset // chunk * size, run.length // chunk * size, start)

    def _cut_in_two(self, run: Run) -> tuple[Run, Run]:
        """Halves of the only run of a shard."""
        first = self.first_half
        second = Run(first, run.length - first, self.stripes.position(run.start, first))
        return Run(0, first, run.start), second
