"""Attention to a key/value cache that is cut over devices, whose keys and values never move.

Two ways for new tokens to come; both write their keys and values into the slots of `slots.py`, where all
devices keep what they have, and both are made of `attend_block` and of merging by log-sum-exp.

    whole    Every device has the new tokens: one that was just decoded, or a few. Each attends to its own
             slots, and what they found is merged in two all-reduces, the largest log-sum-exp and then
             [out w, w] in one array: B T N (H + 2) numbers, however many slots there are.
    spread   A chunk of a prompt is cut over "seq" in zigzag order. The first chunk is attended to by ring
             attention (2310.01889). To later ones all keys there are, their own ones too, lie in slots
             already: their queries go round the ring and collect (2502.02406).

Order is by position: a query sees the slots whose positions are not above its own, and position -1, padding,
neither sees nor is seen; its rows are exactly 0. As ids, positions + 1, this is the mask of ordered segments,
by which blocks that no query sees are passed over.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.attention import Part, attend_block, merge
from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, check_divides, index, per_device, pieces, spec
from lwm.ops.masks import Mask
from lwm.ops.ring_attention import ring_attention
from lwm.ops.slots import Cache, aligned, held, put_spread, put_whole
from lwm.ops.xattn_ways import How, forward

SLOTS = 4096  # looked at together; slots beyond the last that is taken are not
FEW = 8  # new tokens for which a block of slots is scored at once
BY_POSITION = Mask(causal=False, ordered=True)


def attend_whole(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    positions_BT: jax.Array,
    cache: Cache,
    layer: jax.Array,
    *,
    block: int = 512,
) -> tuple[jax.Array, Cache]:
    """T tokens that every device of "seq" has: writes them down in one layer and attends to all slots.

    Args:
      q_BTNH, k_BTKH, v_BTKH: of the new tokens, rotated; B cut over ("data", "fsdp"), heads over "tensor".
      positions_BT: int32, -1 = padding.
      cache: `positions_BS` has the new tokens already (`note_whole`), `length` does not count them.
      layer: int32 scalar.
      block: most positions in a block of scores if there are more than FEW tokens.

    Returns:
      out_BTNH in the dtype of q, and the cache with the keys and values of this layer.

    Raises:
      ValueError: shapes that do not go together, or that the mesh does not divide.
    """
    _check(q_BTNH, k_BTKH, v_BTKH, positions_BT, cache)
    heads, rows = spec(ROWS, (), TENSOR, ()), spec(ROWS, ())
    local = per_device(
        functools.partial(_whole, block),
        (heads, heads, heads, rows, held(), held(), spec(ROWS, SEQUENCE), spec(), spec()),
        (heads, held(), held()),
    )
    out_BTNH, k, v = local(q_BTNH, k_BTKH, v_BTKH, positions_BT, *cache, layer)
    return out_BTNH, cache._replace(k_LBSKH=k, v_LBSKH=v)


def attend_spread(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    positions_BT: jax.Array,
    cache: Cache,
    layer: jax.Array,
    *,
    first: bool,
    block: int = 512,
) -> tuple[jax.Array, Cache]:
    """T tokens cut over "seq" in zigzag order: writes them down where they are, and attends to all slots.

    Args:
      q_BTNH, k_BTKH, v_BTKH, positions_BT, cache, layer, block: as for `attend_whole`, T a multiple of 2 n;
        `length` is a multiple of n (`aligned`), and positions grow along each row.
      first: there is nothing in the cache before these tokens.

    Returns, raises: as `attend_whole`.
    """
    _check(q_BTNH, k_BTKH, v_BTKH, positions_BT, cache)
    n, T = pieces(SEQUENCE), q_BTNH.shape[1]
    if n > 1 and T % (2 * n):
        raise ValueError(f"T: {T} is not a multiple of {2 * n}, two chunks for each of seq={n} devices")
    heads, rows = spec(ROWS, SEQUENCE, TENSOR, ()), spec(ROWS, SEQUENCE)
    write = per_device(put_spread, (held(), heads, spec(), spec()), held())
    k = write(cache.k_LBSKH, k_BTKH, layer, cache.length)
    v = write(cache.v_LBSKH, v_BTKH, layer, cache.length)
    if first:
        out_BTNH = ring_attention(q_BTNH, k_BTKH, v_BTKH, (positions_BT >= 0).astype(jnp.int32), block=block)
    else:
        how = How(n, BY_POSITION, block)
        travel = per_device(
            functools.partial(_travel, how), (heads, rows, held(), held(), rows, spec()), heads
        )
        out_BTNH = travel(q_BTNH, positions_BT, k, v, cache.positions_BS, layer)
    return out_BTNH, cache._replace(k_LBSKH=k, v_LBSKH=v)


def merge_all(part: Part) -> jax.Array:
    """out_BTNH, float32, of what the devices of "seq" found for the same queries; zero where none saw any."""
    out_BTNH, lse_BTN = part
    if pieces(SEQUENCE) == 1:
        return out_BTNH
    B, T, N, H = out_BTNH.shape
    top_BTN = lax.pmax(lse_BTN, SEQUENCE)
    weight_BTN = jnp.exp(lse_BTN - jnp.where(top_BTN > -jnp.inf, top_BTN, 0.0))
    # One array without a last dimension of H + 1, which a TPU would fill up to twice its size.
    packed = jnp.concatenate([(out_BTNH * weight_BTN[..., None]).reshape(B, T, N * H), weight_BTN], axis=-1)
    out, total_BTN = jnp.split(lax.psum(packed, SEQUENCE), [N * H], axis=-1)
    return out.reshape(B, T, N, H) / jnp.where(total_BTN > 0, total_BTN, 1.0)[..., None]


def last_of_zigzag(x_BTD: jax.Array) -> jax.Array:
    """x_B1D on every device: the last position in natural order of what is cut over "seq" in zigzag order."""
    if pieces(SEQUENCE) == 1:
        return x_BTD[:, -1:]

    def local(x_BTD):
        # Device 0 has the last chunk, as its second.
        return lax.psum(jnp.where(index(SEQUENCE) == 0, x_BTD[:, -1:], 0), SEQUENCE)

    return per_device(local, (spec(ROWS, SEQUENCE, ()),), spec(ROWS, (), ()))(x_BTD)


def over_slots(block, q, k_LBSKH, v_LBSKH, ids_BT, ids_BS, layer, taken) -> Part:
    """Attention of queries to the first `taken` slots of this device, by ids in order, read as they lie.

    Runs inside `per_device`. ids_BT, ids_BS: int32, 0 = nothing; a query sees ids from 1 up to its own.
    """
    (T, s), (B, K, H) = (q.shape[1], ids_BS.shape[1]), (q.shape[0], *k_LBSKH.shape[3:])
    size = min(SLOTS, s)
    attend = _attend_few if T <= FEW else functools.partial(attend_block, mask=BY_POSITION, block=block)

    def visit(number, part):
        # The last block begins earlier rather than being cut short; what was seen before is hidden then.
        start = jnp.minimum(number * size, s - size)
        at, shape = (layer, 0, start, 0, 0), (1, B, size, K, H)
        k, v = (lax.dynamic_slice(x, at, shape)[0] for x in (k_LBSKH, v_LBSKH))
        ids = lax.dynamic_slice_in_dim(ids_BS, start, size, axis=1)
        ids = jnp.where(start + jnp.arange(size) >= number * size, ids, 0)
        return attend(q, k, v, ids_BT, ids, part=part)

    nothing = jnp.zeros(q.shape, jnp.float32), jnp.full(q.shape[:3], -jnp.inf)
    return lax.fori_loop(0, -(-taken // size), visit, nothing)


def _whole(block, q, k_new, v_new, positions_BT, k_LBSKH, v_LBSKH, positions_BS, length, layer):
    k_LBSKH = put_whole(k_LBSKH, k_new, positions_BT, layer, length)
    v_LBSKH = put_whole(v_LBSKH, v_new, positions_BT, layer, length)
    taken = aligned(length + q.shape[1], pieces(SEQUENCE)) // pieces(SEQUENCE)
    part = over_slots(block, q, k_LBSKH, v_LBSKH, positions_BT + 1, positions_BS + 1, layer, taken)
    return merge_all(part).astype(q.dtype), k_LBSKH, v_LBSKH


def _travel(how, q, positions_BT, k_LBSKH, v_LBSKH, positions_BS, layer):
    k, v = (lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in (k_LBSKH, v_LBSKH))
    out, _ = forward("rotate_queries", how, q, k, v, positions_BT + 1, positions_BS + 1)
    return out.astype(q.dtype)


def _attend_few(q_BTNH, k_BSKH, v_BSKH, q_ids_BT, k_ids_BS, part: Part) -> Part:
    """`attend_block` by position for few queries: all scores at once, and keys read as they lie."""
    (B, T, N, H), K = q_BTNH.shape, k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BTKGS = _product("BTKGH,BSKH->BTKGS", q_BTKGH, k_BSKH) * H**-0.5
    seen_BTS = BY_POSITION.sees_ids(q_ids_BT[:, :, None], k_ids_BS[:, None, :])
    scores_BTKGS = jnp.where(seen_BTS[:, :, None, None], scores_BTKGS, -jnp.inf)
    top_BTKG = jnp.max(scores_BTKGS, axis=-1)
    shift_BTKG = jnp.where(top_BTKG > -jnp.inf, top_BTKG, 0.0)
    weights_BTKGS = jnp.exp(scores_BTKGS - shift_BTKG[..., None])
    total_BTKG = jnp.sum(weights_BTKGS, axis=-1)
    some_BTKG = jnp.where(total_BTKG > 0, total_BTKG, 1.0)
    out_BTKGH = _product("BTKGS,BSKH->BTKGH", weights_BTKGS.astype(v_BSKH.dtype), v_BSKH)
    out_BTKGH /= some_BTKG[..., None]
    lse_BTKG = jnp.where(total_BTKG > 0, shift_BTKG + jnp.log(some_BTKG), -jnp.inf)
    return merge(part, (out_BTKGH.reshape(B, T, N, H), lse_BTKG.reshape(B, T, N)))


def _product(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _check(q_BTNH, k_BTKH, v_BTKH, positions_BT, cache: Cache) -> None:
    (B, T, N, H), K = q_BTNH.shape, k_BTKH.shape[2]
    for name, x in (("k_BTKH", k_BTKH), ("v_BTKH", v_BTKH)):
        if x.shape != (B, T, K, H):
            raise ValueError(f"{name}: shape {x.shape}; needs {(B, T, K, H)} to go with q_BTNH")
    if positions_BT.shape != (B, T):
        raise ValueError(f"positions_BT: shape {positions_BT.shape}; needs {(B, T)}")
    L, _, S = cache.k_LBSKH.shape[:3]
    if cache.k_LBSKH.shape != (L, B, S, K, H):
        raise ValueError(f"cache: keys {cache.k_LBSKH.shape}; needs {(L, B, S, K, H)}, as the tokens have it")
    if S % pieces(SEQUENCE):
        raise ValueError(f"cache: {S} slots for seq={pieces(SEQUENCE)} devices; make it on this mesh")
    for letter, length, axes in (("B", B, ROWS), ("N", N, TENSOR), ("K", K, TENSOR)):
        check_divides(letter, length, axes)
