"""Who sees whom, by position: the masks of attention as arithmetic instead of arrays.

A mask says for a query at position i and a key at position j whether i sees j, and for whole ranges of
positions whether nothing or everything in them is visible. All of it is a few integer operations, and works
on Python integers, numpy arrays and traced values alike; nothing grows with the length of a sequence.
"""

import dataclasses

import jax
import numpy as np

Ints = int | np.ndarray | jax.Array
FRAME_BITS = 16  # an id of a frame is (clip << FRAME_BITS) + number, with numbers from 1 in every clip


@dataclasses.dataclass(frozen=True)
class Mask:
    """A static mask over positions; plain causal by default, `Mask(causal=False)` hides nothing.

    Attributes:
      causal: the query at position i sees keys at positions j <= i.
      frame: positions in a frame. Causal between frames, free inside one: j // frame <= i // frame
        (block-causal attention, as between the frames of a video). 1 is plain causal.
      window: sees i - j < window only, on top of the rest; 0 = no window. 1 is the query's own position.
      ordered: how segment ids are read where they are given. False: a query sees the keys of its own id.
        True: it sees ids from 1 up to its own (text that sees the frames before it).
      frame_bits: with `ordered`, how many of the lowest bits of an id count frames; those above them name a
        clip, and a query sees frames of its own clip only, so that several clips share a row. 0 = one clip.

    Raises:
      ValueError: frame < 1, window < 0, frames or a window without `causal`, frame_bits without `ordered` or
        more than ids of 32 bits have.
    """

    causal: bool = True
    frame: int = 1
    window: int = 0
    ordered: bool = False
    frame_bits: int = 0

    def __post_init__(self):
        if self.frame < 1:
            raise ValueError(f"frame: {self.frame}; positions in a frame, at least 1")
        if self.window < 0:
            raise ValueError(f"window: {self.window}; positions that are seen, or 0 for all")
        if not self.causal and (self.frame > 1 or self.window):
            raise ValueError(f"causal: False with frame={self.frame}, window={self.window}; they need causal")
        if not 0 <= self.frame_bits <= 30:
            raise ValueError(f"frame_bits: {self.frame_bits}; bits of an id that count frames, 0 to 30")
        if self.frame_bits and not self.ordered:
            raise ValueError(f"frame_bits: {self.frame_bits} with ordered=False; they need ordered")

    @property
    def everything(self) -> bool:
        """Whether no position hides from another."""
        return not self.causal

    @property
    def plain(self) -> bool:
        """Whether this is j <= i and nothing else."""
        return self.causal and self.frame == 1 and not self.window

    def sees(self, i: Ints, j: Ints):
        """Whether the query at i sees the key at j, element by element; bool of the broadcast shape."""
        seen = (i == i) & (j == j)
        if self.causal:
            seen = seen & (j <= self._last_seen(i))
        if self.window:
            seen = seen & (i - j < self.window)
        return seen

    def visible(self, q_positions_T, k_positions_S):
        """bool[T, S] of `sees` for every query and every key."""
        return self.sees(q_positions_T[:, None], k_positions_S[None, :])

    def dead(self, q_first: Ints, q_last: Ints, k_first: Ints, k_last: Ints):
        """Whether no query of q_first … q_last sees any key of k_first … k_last (all inclusive)."""
        dead = (q_last < q_first) | (k_last < k_first)
        if self.causal:
            dead = dead | (k_first > self._last_seen(q_last))
        if self.window:
            dead = dead | (q_first - k_last >= self.window)
        return dead

    def whole(self, q_first: Ints, q_last: Ints, k_first: Ints, k_last: Ints):
        """Whether every query of q_first … q_last sees every key of k_first … k_last (all inclusive)."""
        whole = (q_first == q_first) & (k_last == k_last)
        if self.causal:
            whole = whole & (k_last <= self._last_seen(q_first))
        if self.window:
            whole = whole & (q_last - k_first < self.window)
        return whole

    def keys_of(self, q_first: Ints, q_last: Ints) -> tuple[Ints | None, Ints | None]:
        """First and last key position that some query of q_first … q_last sees; None = no such bound."""
        first = q_first - self.window + 1 if self.window else None
        return first, self._last_seen(q_last) if self.causal else None

    def queries_of(self, k_first: Ints, k_last: Ints) -> tuple[Ints | None, Ints | None]:
        """First and last query position that sees some key of k_first … k_last; None = no such bound."""
        last = k_last + self.window - 1 if self.window else None
        return k_first // self.frame * self.frame if self.causal else None, last

    def sees_ids(self, q_ids: Ints, k_ids: Ints):
        """Whether a query of one segment sees a key of another; padding (id 0) neither sees nor is seen."""
        if not self.ordered:
            return (k_ids == q_ids) & (k_ids > 0)
        seen = (k_ids <= q_ids) & (k_ids > 0)
        return seen & (k_ids >= self._clip_start(q_ids)) if self.frame_bits else seen

    def ids_dead(self, q_low: Ints, q_high: Ints, k_low: Ints, k_high: Ints):
        """Whether no id in q_low … q_high can see one in k_low … k_high (ids > 0; empty if low > high)."""
        dead = (q_low > q_high) | (k_low > k_high) | (q_high < k_low)
        if not self.ordered:
            return dead | (k_high < q_low)
        return dead | (k_high < self._clip_start(q_low)) if self.frame_bits else dead

    def ids_whole(self, q_low: Ints, q_high: Ints, k_low: Ints, k_high: Ints):
        """Whether every id in q_low … q_high sees every one in k_low … k_high, padding being absent."""
        if not self.ordered:
            return (q_low == k_high) & (q_high == k_low)
        whole = k_high <= q_low
        return whole & (k_low >= self._clip_start(q_high)) if self.frame_bits else whole

    def _clip_start(self, ids: Ints):
        """What an id would be as the number 0 of its clip: a query sees the ids from there up to its own."""
        return ids & -(1 << self.frame_bits)

    def _last_seen(self, i: Ints):
        return i if self.frame == 1 else (i // self.frame + 1) * self.frame - 1


CAUSAL = Mask()
EVERYTHING = Mask(causal=False)
