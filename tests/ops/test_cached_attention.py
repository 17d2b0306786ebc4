"""Attention to a cache over devices, against dense attention over everything that was ever written to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.cached_attention import FEW, SLOTS, attend_spread, attend_whole, last_of_zigzag, merge_all
from lwm.ops.slots import aligned, empty_cache, note_spread, note_whole
from lwm.parallel.layout import natural_order, zigzag_order
from lwm.parallel.mesh import make_mesh

LAYERS, H = 3, 8
# The programs are tiny: compiling them well takes longer than running them badly.


class Reference:
    """All tokens of all rows as plain arrays in float64; attention by the textbook."""

    def __init__(self, rng, B, N, K):
        self.rng, self.B, self.N, self.K = rng, B, N, K
        self.k, self.v, self.positions = np.zeros((B, 0, K, H)), np.zeros((B, 0, K, H)), np.zeros((B, 0))

    def add(self, positions_BT):
        """Random (q, k, v) of tokens, and what attention to them and to all before them gives."""
        T = positions_BT.shape[1]
        q = self.rng.normal(size=(self.B, T, self.N, H)).astype(np.float32)
        k, v = self.rng.normal(size=(2, self.B, T, self.K, H)).astype(np.float32)
        self.k, self.v = np.concatenate([self.k, k], axis=1), np.concatenate([self.v, v], axis=1)
        self.positions = np.concatenate([self.positions, positions_BT], axis=1)
        seen = (self.positions[:, None] <= positions_BT[:, :, None]) & (self.positions[:, None] >= 0)
        keys, values = (np.repeat(x, self.N // self.K, axis=2) for x in (self.k, self.v))
        scores = np.einsum("btnh,bsnh->bnts", q, keys) / np.sqrt(H)
        weights = np.exp(scores) * seen[:, None]
        total = weights.sum(-1, keepdims=True)
        weights /= np.where(total > 0, total, 1)
        return (q, k, v), np.einsum("bnts,bsnh->btnh", weights, values)


@jax.jit
def whole(cache, qkv, positions):
    """Appends by `attend_whole`; (out, cache)."""
    noted = note_whole(cache, positions)
    out, noted = attend_whole(*qkv, positions, noted, 1, block=16)
    return out, noted._replace(length=cache.length + positions.shape[1])


@functools.partial(jax.jit, static_argnames="first")
def spread(cache, qkv, positions, first):
    """Appends by `attend_spread`, from and to natural order."""
    T, n = positions.shape[1], max(jax.sharding.get_abstract_mesh().shape.get("seq", 1), 1)
    there, back = zigzag_order(T, n), natural_order(T, n)
    cache = cache._replace(length=aligned(cache.length, n))
    noted = note_spread(cache, positions[:, there])
    arrays = (x[:, there] for x in (*qkv, positions))
    out, noted = attend_spread(*arrays, noted, 1, first=first, block=16)
    return out[:, back], noted._replace(length=cache.length + T)


def from_left(rng, B, T, starts, pads):
    """Positions of T columns: row b has pads[b] of padding, then goes on from starts[b]."""
    columns = np.arange(T)[None] - np.asarray(pads)[:, None]
    return np.where(columns >= 0, columns + np.asarray(starts)[:, None], -1).astype(np.int32)


def on(axes):
    count = int(np.prod([*axes.values()]))
    return jax.set_mesh(make_mesh(**axes, devices=jax.devices()[:count]))


@pytest.mark.parametrize(
    "axes, N, K",
    [
        (dict(), 6, 2),
        (dict(seq=8), 2, 1),
        (dict(seq=2, tensor=2), 4, 2),
        (dict(data=2, seq=2, tensor=2), 4, 2),
        pytest.param(dict(data=2, seq=4), 2, 2, marks=pytest.mark.slow),
        pytest.param(dict(fsdp=2, tensor=4), 8, 4, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_prompt_a_turn_and_single_tokens_are_dense_attention(rng, axes, N, K):
    """Left padding of unequal rows, chunks, decoded tokens, another chunk and more tokens, in one cache."""
    B = 2
    reference = Reference(rng, B, N, K)
    with on(axes):
        cache = empty_cache(layers=LAYERS, rows=B, slots=160, kv_heads=K, head_dim=H, dtype="float32")
        at = np.zeros(B, np.int32)
        for T, pads, way in (
            (32, (0, 21), "first"),
            (16, (0, 0), "spread"),
            (1, (0, 0), "whole"),
            (1, (0, 1), "whole"),
            (FEW - 1, (2, 0), "whole"),
            (16, (3, 9), "spread"),
            (FEW + 5, (0, 4), "whole"),
            (1, (0, 0), "whole"),
        ):
            positions = from_left(rng, B, T, at, pads)
            qkv, want = reference.add(positions)
            if way == "whole":
                got, cache = whole(cache, qkv, positions)
            else:
                got, cache = spread(cache, qkv, positions, first=way == "first")
            np.testing.assert_allclose(got, want, atol=2e-6)
            assert not np.any(np.asarray(got)[positions < 0]), "padding"
            at = at + T - np.asarray(pads)
    assert not np.any(cache.k_LBSKH[0]) and not np.any(cache.k_LBSKH[2]), "another layer"
    seen = np.sort(np.where(cache.positions_BS >= 0, cache.positions_BS, 1000), axis=1)
    for row, length in zip(seen, at, strict=True):
        np.testing.assert_array_equal(row[:length], np.arange(length))


def test_shards_stay_equally_full(rng):
    with on(dict(seq=4)):
        cache = empty_cache(layers=LAYERS, rows=1, slots=30, kv_heads=1, head_dim=H, dtype="float32")
        assert cache.k_LBSKH.shape == (LAYERS, 1, 32, 1, H)
        for t in range(10):
            positions = np.full((1, 1), t, np.int32)
            _, cache = whole(cache, Reference(rng, 1, 1, 1).add(positions)[0], positions)
    shards = np.asarray(cache.positions_BS).reshape(4, 8)
    assert [row[row >= 0].tolist() for row in shards] == [[0, 4, 8], [1, 5, 9], [2, 6], [3, 7]]


def test_columns_that_are_padding_everywhere_take_no_slots(rng):
    """With `length` put back by their number, they pass over what is there already."""
    reference = Reference(rng, 2, 2, 1)
    with on(dict(seq=2)):
        cache = empty_cache(layers=LAYERS, rows=2, slots=8, kv_heads=1, head_dim=H, dtype="float32")
        for starts, pads in (((0, 0), (5, 6)), ((3, 2), (4, 3))):
            positions = from_left(rng, 2, 8, starts, pads)
            qkv, want = reference.add(positions)
            cache = cache._replace(length=cache.length - min(pads))
            got, cache = whole(cache, qkv, positions)
            np.testing.assert_allclose(got, want, atol=2e-6)
    assert int(cache.length) == 8


def test_many_slots_are_looked_at_in_blocks_that_may_overlap(rng):
    """S is no multiple of SLOTS, and no tile is so large as to hold all scores."""
    S, T = SLOTS + 100, SLOTS + 50
    reference = Reference(rng, 1, 1, 1)
    cache = empty_cache(layers=LAYERS, rows=1, slots=S, kv_heads=1, head_dim=H, dtype="float32")
    for count in (T, 1, 30):
        at = int(cache.length)
        positions = np.arange(at, at + count, dtype=np.int32)[None]
        if count == T:
            q, k, v = (rng.normal(size=(1, T, 1, H)).astype(np.float32) for _ in range(3))
            reference.k, reference.v, reference.positions = k, v, positions
            cache = note_whole(cache, positions)
            # The reference would score all of them densely; here it matters what is in the slots.
            pair = jnp.stack([k[0], v[0]])[:, None, :, :, :]
            held = [x.at[1, :, :T].set(new) for x, new in zip(cache[:2], pair, strict=True)]
            cache = cache._replace(k_LBSKH=held[0], v_LBSKH=held[1], length=jnp.int32(T))
            continue
        qkv, want = reference.add(positions)
        got, cache = whole(cache, qkv, positions)
        np.testing.assert_allclose(got, want, atol=2e-6)


def test_merging_parts_of_which_some_or_all_saw_nothing(rng):
    out = rng.normal(size=(4, 1, 3, 2, H)).astype(np.float32)
    lse = rng.normal(size=(4, 1, 3, 2)).astype(np.float32) * 30
    lse[1:, :, 0], lse[2:, :, 1], lse[:, :, 2] = -np.inf, -np.inf, -np.inf
    weights = np.exp(lse - np.where(lse.max(0) > -np.inf, lse.max(0), 0))
    want = (out * weights[..., None]).sum(0) / np.maximum(weights.sum(0), 1e-30)[..., None]
    with on(dict(seq=4)):
        spec = jax.sharding.PartitionSpec("seq")
        merged = jax.shard_map(
            lambda out, lse: merge_all((out[0], lse[0]))[None], in_specs=spec, out_specs=spec, check_vma=False
        )
        for device in np.asarray(jax.jit(merged)(out, lse)):
            np.testing.assert_allclose(device, want, atol=1e-6)
            assert not np.any(device[:, 2])


@pytest.mark.parametrize("axes", [dict(), dict(seq=8), dict(data=2, seq=2, tensor=2)], ids=str)
def test_the_last_position(axes):
    x = np.arange(2 * 32 * 3, dtype=np.float32).reshape(2, 32, 3)
    n = axes.get("seq", 1)
    with on(axes):
        np.testing.assert_array_equal(jax.jit(last_of_zigzag)(x[:, zigzag_order(32, n)]), x[:, -1:])


def test_what_does_not_fit_is_refused(rng):
    positions = np.zeros((1, 1), np.int32)
    qkv = Reference(rng, 1, 2, 1).add(positions)[0]
    with on(dict(tensor=2)), pytest.raises(ValueError, match="K: 1 .*tensor"):
        empty_cache(layers=1, rows=1, slots=8, kv_heads=1, head_dim=H, dtype="float32")
    cache = empty_cache(layers=LAYERS, rows=1, slots=7, kv_heads=1, head_dim=H, dtype="float32")
    even = cache._replace(k_LBSKH=cache.k_LBSKH[:, :, 1:], v_LBSKH=cache.v_LBSKH[:, :, 1:])
    with on(dict(seq=2)), pytest.raises(ValueError, match="7 slots"):
        attend_whole(*qkv, positions, cache, 0)
    with on(dict(tensor=2)), pytest.raises(ValueError, match="K: 1 .*tensor"):
        attend_whole(*qkv, positions, cache, 0)
    with pytest.raises(ValueError, match="k_BTKH"):
        attend_whole(qkv[0], qkv[1][:, :, :, :4], qkv[2], positions, cache, 0)
    with on(dict(seq=2)), pytest.raises(ValueError, match="T: 1 .*multiple of 4"):
        attend_spread(*qkv, positions, even, 0, first=True)
