"""Which split of the "seq" axis into Ulysses groups and rings costs least, by bytes sent and blocks executed.

    all-to-all  q, out and copies of k, v (forward), their gradients (backward); nothing hides it
    ring        k, v (forward) and k, v and float32 dk, dv (backward); attention hides it, hop by hop

More Ulysses leaves fewer hops, but sends a head of keys several times once there are more devices than heads.
"""

import dataclasses

from lwm.ops.balance import executed_tiles, ideal_tiles
from lwm.ops.masks import CAUSAL, Mask
from lwm.ops.meetings import LAYOUTS, Shards
from lwm.ops.ulysses import kv_copies

FORWARD, BOTH = 4, 14  # operations for a visible (query, key) pair and unit of head size: 2 products, 2 + 5
TILES = 1024  # of a side, at most, when blocks are counted


@dataclasses.dataclass(frozen=True)
class Split:
    """One way to use the axis, with what a device sends and does in forward and backward together.

    Attributes:
      ulysses, ring: factors of the axis.
      exchanged, passed: bytes that a device sends all-to-all, and round the ring.
      balance: blocks that the busiest device executes over the ideal.
      seconds: attention, plus the all-to-alls, plus what the ring sends longer than a hop computes.
      reason: all of this in words.
    """

    ulysses: int
    ring: int
    exchanged: int
    passed: int
    balance: float
    seconds: float
    reason: str


def rank_splits(
    *,
    n: int,
    length: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rows: int = 1,
    itemsize: int = 2,
    mask: Mask = CAUSAL,
    layout: str = "zigzag",
    block: int = 512,
    flops: float = 459e12,
    bandwidth: float = 90e9,
) -> list[Split]:
    """All splits of an axis of n devices, the cheapest first.

    Args:
      length: positions in the sequence.
      heads, kv_heads: of one device of the "tensor" axis.
      rows: of one device of the "data" and "fsdp" axes.
      itemsize: bytes of an element of q, k and v.
      mask, layout, block: as for `ring_attention`, of which zigzag makes one turn.
      flops: operations a device does in a second; the default is that of a TPU v5p.
      bandwidth: bytes a device sends to a neighbour in a second, likewise (one link, one direction).

    Raises:
      ValueError: n < 1, heads that are not a multiple of kv_heads, or an unknown layout.
    """
    if n < 1:
        raise ValueError(f"n: {n}; devices on the axis, at least 1")
    if heads % kv_heads:
        raise ValueError(f"heads: {heads}; a multiple of kv_heads = {kv_heads}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r}; one of {LAYOUTS}")
    block = max(block, -(-length // TILES))
    ideal = ideal_tiles(length, n, mask, block=block)
    work = BOTH * ideal * block**2 * rows * heads * head_dim / flops
    splits = []
    for ulysses in (u for u in range(1, n + 1) if n % u == 0 and heads % u == 0):
        ring, copies = n // ulysses, kv_copies(kv_heads, ulysses)
        shards = Shards(ring, -(-length // ring), layout, mask)
        tiles = executed_tiles(shards, block=block)
        balance = float(tiles.sum(axis=1).max() / ulysses / ideal)
        head = rows * -(-length // n) * head_dim  # elements of one head in a shard
        leaving = 2 * (heads + kv_heads * copies) * head * itemsize * (ulysses - 1) // ulysses
        hop = 2 * kv_heads * copies * head * (2 * itemsize + 4)
        exchanged, passed = 2 * leaving, hop * shards.hops
        hidden = work * balance / (1 + shards.hops)
        exposed = shards.hops * max(0.0, hop / bandwidth - hidden)
        seconds = work * balance + exchanged / bandwidth + exposed
        reason = (
            f"ulysses {ulysses} x ring {ring}: {1e3 * seconds:.3g} ms = {1e3 * work * balance:.3g} computing "
            f"({balance:.2f} of the ideal blocks on the busiest device) "
            f"+ {1e3 * exchanged / bandwidth:.3g} for {exchanged / 2**20:.4g} MiB all-to-all "
            f"+ {1e3 * exposed:.3g} not hidden of {passed / 2**20:.4g} MiB in {shards.hops} hops"
        )
        if copies > 1:
            reason += f"; every key/value head is sent {copies} times"
        splits.append(Split(ulysses, ring, exchanged, passed, balance, seconds, reason))
    return sorted(splits, key=lambda split: (split.seconds, split.exchanged + split.passed))
