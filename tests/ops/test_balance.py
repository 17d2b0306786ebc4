"""How evenly the layouts spread tiles over devices, and that the kernel runs just what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.attention import attend_block
from lwm.ops.balance import executed_tiles, ideal_tiles, positions
from lwm.ops.masks import Mask
from lwm.ops.meetings import Shards

MASKS = [Mask(), Mask(causal=False), Mask(frame=7), Mask(window=11), Mask(frame=5, window=9)]


def busiest(shards, block, segments=None):
    """Tiles of the busiest device over the ideal."""
    n, options = shards.n, {"block": block, "segments": segments}
    tiles = executed_tiles(shards, **options)
    return tiles.sum(axis=1).max() / ideal_tiles(n * shards.length, n, shards.mask, **options)


def packed(seed, length, shortest, longest):
    """Documents of log-uniform lengths, one after another."""
    rng, lengths = np.random.default_rng(seed), []
    while sum(lengths) < length:
        lengths.append(int(np.exp(rng.uniform(np.log(shortest), np.log(longest)))))
    return np.repeat(np.arange(1, len(lengths) + 1), lengths)[:length]


@pytest.mark.parametrize("n", [4, 8, 64])
def test_causal_attention_is_balanced(n):
    length = 131072
    zigzag = Shards(n, length // n, "zigzag", Mask())
    assert busiest(zigzag, 512) <= 1.03
    by_hop = executed_tiles(zigzag, block=512)
    assert np.all(by_hop.max(axis=0) == by_hop.min(axis=0))
    assert busiest(Shards(n, length // n, "contiguous", Mask()), 512) > 1.7


@pytest.mark.parametrize("stripe", [128, 256, 512])
def test_many_turns_leave_causal_attention_balanced(stripe):
    zigzag = Shards(8, 4096, "zigzag", Mask(), stripe=stripe)
    by_hop = executed_tiles(zigzag, block=stripe)
    assert np.all(by_hop.max(axis=0) == by_hop.min(axis=0))
    assert busiest(zigzag, stripe) == 1


# Lengths of the documents, the stripe, and what the mean and the largest of ten draws may be.
@pytest.mark.parametrize(
    "shortest, longest, stripe, mean, largest",
    [
        (1024, 131072, 512, 1.10, 1.10),
        (1024, 131072, 256, 1.10, 1.10),
        (128, 8192, 128, 1.10, 1.15),
        (64, 2048, 128, 1.10, 1.20),
    ],
)
def test_packed_documents_are_balanced(shortest, longest, stripe, mean, largest):
    """Eight devices, 131 072 tokens, lengths that are uniform by their logarithm."""
    n, length = 8, 131072
    ratios = {("zigzag", stripe): [], ("zigzag", 0): [], ("contiguous", 0): []}
    for seed in range(10):
        segments = packed(seed, length, shortest, longest)
        for (layout, cut), found in ratios.items():
            found.append(busiest(Shards(n, length // n, layout, Mask(), stripe=cut), stripe, segments))
    many, *others = ratios.values()
    assert np.mean(many) <= mean and max(many) <= largest
    assert min(np.mean(found) for found in others) > (1.2 if longest == length else np.mean(many))


@pytest.mark.parametrize(
    "layout, length, stripe", [("zigzag", 8, 0), ("zigzag", 8, 2), ("zigzag", 12, 2), ("contiguous", 9, 0)]
)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("both_ways", [False, True])
def test_meetings_cover_every_visible_pair_once(layout, length, stripe, mask, both_ways):
    """What the devices attend to, meeting by meeting, is the mask itself."""
    n = 3
    shards = Shards(n, length, layout, mask, stripe=stripe)
    held = np.array([positions(shards, device) for device in range(n)])
    assert sorted(held.reshape(-1)) == list(range(n * length))
    seen = np.zeros((n * length, n * length), int)

    def meet(me, meetings, keys_held):
        for queries, keys, between in meetings:
            q = held[me][queries.offset : queries.offset + queries.length]
            k = keys_held[keys.offset : keys.offset + keys.length]
            if not between.everything:  # where positions matter, they must be right
                index = np.arange(queries.length), np.arange(keys.length)
                np.testing.assert_array_equal(q, shards.stripes.position(queries.start, index[0]))
                np.testing.assert_array_equal(k, shards.stripes.position(keys.start, index[1]))
            seen[np.ix_(q, k)] += between.visible(q, k)

    for me in range(n):
        meet(me, shards.own(me), held[me])
        for distance in range(1, 1 + shards.hops):
            for direction, part in ((1, 0), (-1, 1)) if both_ways else ((1, None),):
                if both_ways and shards.hops < n - 1:
                    direction, part = 1, part
                them = (me - direction * distance) % n
                theirs = held[them] if part is None else shards.halves(held[them])[part]
                meet(me, shards.hop(me, them, part), theirs)
    np.testing.assert_array_equal(seen, mask.visible(np.arange(n * length), np.arange(n * length)))


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("segmented", [False, True])
def test_the_kernel_reads_only_the_tiles_that_are_counted(mask, segmented, rng):
    """Values of one block of keys at a time are NaN: just the queries whose tile is executed become NaN."""
    T, block = 40, 8
    q, k, v = (jnp.asarray(rng.normal(size=(1, T, 1, 4)), jnp.float32) for _ in range(3))
    segments = np.sort(rng.integers(0, 5, size=T)) if segmented else None
    ids = None if segments is None else jnp.asarray(segments, jnp.int32)[None]

    @jax.jit
    def run(v, q_start, k_start):
        starts = {"q_start": q_start, "k_start": k_start}
        return attend_block(q, k, v, ids, ids, mask=mask, block=block, **starts)[0]

    executed = 0
    for j in range(T // block):
        out = run(v.at[:, j * block : (j + 1) * block].set(jnp.nan), 0, 0)
        executed += np.isnan(out).reshape(T // block, -1).any(axis=1).sum()
    whole = Shards(1, T, "contiguous", mask)
    assert executed == executed_tiles(whole, block=block, segments=segments).sum()
