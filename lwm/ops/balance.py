"""How many tiles each device of a ring executes: the arithmetic of the kernels, on the host.

For planning and for tests; the kernels themselves never make such a table.
"""

import numpy as np

from lwm.ops.masks import Mask
from lwm.ops.meetings import Meeting, Shards


def executed_tiles(
    shards: Shards, *, block: int, segments: np.ndarray | None = None, both_ways: bool = False
) -> np.ndarray:
    """Tiles (pairs of blocks) that a forward pass of one row executes.

    Args:
      shards: layout, mask and sizes of the ring.
      block: most positions in a block.
      segments: int[shards.n * shards.length] in natural order, 0 = padding; or None.
      both_ways: half of the keys travel each way.

    Returns:
      int64[n, 1 + hops]: by device, and by hop after the device's own shard.
    """
    held = [None if segments is None else segments[positions(shards, device)] for device in range(shards.n)]
    tiles = np.zeros((shards.n, 1 + shards.hops), np.int64)
    for me in range(shards.n):
        own = shards.own(me)
        tiles[me, 0] = sum(_count(shards, meeting, held[me], held[me], block) for meeting in own)
        for distance in range(1, 1 + shards.hops):
            for direction, part in ((1, 0), (-1, 1)) if both_ways else ((1, None),):
                them = (me - direction * distance) % shards.n
                theirs = held[them] if part is None or segments is None else shards.halves(held[them])[part]
                meetings = shards.hop(me, them, part)
                for meeting in meetings:
                    tiles[me, distance] += _count(shards, meeting, held[me], theirs, block)
    return tiles


def ideal_tiles(length: int, n: int, mask: Mask, *, block: int, segments: np.ndarray | None = None) -> float:
    """Tiles with anything visible in them of a sequence in natural order on one device, over n."""
    return executed_tiles(Shards(1, length, "contiguous", mask), block=block, segments=segments).sum() / n


def positions(shards: Shards, device: int) -> np.ndarray:
    """int[length]: the positions that a device holds, in its order."""
    runs = shards.runs(device)
    return np.concatenate([shards.stripes.position(run.start, np.arange(run.length)) for run in runs])


def _count(shards, meeting: Meeting, q_segments, k_segments, block):
    queries, keys, mask = meeting
    q_count, q_size = shards.stripes.cut(queries.length, block)
    k_count, k_size = shards.stripes.cut(keys.length, block)
    q_first, q_last = _edges(shards, queries, q_count, q_size)
    k_first, k_last = _edges(shards, keys, k_count, k_size)
    dead = np.broadcast_to(mask.dead(q_first[:, None], q_last[:, None], k_first, k_last), (q_count, k_count))
    if q_segments is not None:
        q_low, q_high = _spans(q_segments, queries, q_count, q_size)
        k_low, k_high = _spans(k_segments, keys, k_count, k_size)
        dead = dead | mask.ids_dead(q_low[:, None], q_high[:, None], k_low, k_high)
    return dead.size - np.count_nonzero(dead)


def _edges(shards, run, count, size):
    first = np.arange(count) * size
    last = np.minimum(first + size, run.length) - 1
    return shards.stripes.position(run.start, first), shards.stripes.position(run.start, last)


def _spans(segments, run, count, size):
    """Lowest and highest id above 0 of each block; lowest > highest where there is none."""
    ids = np.zeros(count * size, np.int64)
    ids[: run.length] = segments[run.offset : run.offset + run.length]
    ids = ids.reshape(count, size)
    return np.where(ids > 0, ids, np.iinfo(np.int64).max).min(axis=1), ids.max(axis=1)
