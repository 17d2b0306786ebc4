"""What cross-attention accepts, checked before it is traced, and how lengths and segments are filled up."""

import jax
import jax.numpy as jnp

from lwm.ops.axes import ROWS, TENSOR, check_divides
from lwm.ops.xattn_ways import WAYS


def check_heads(q_BTNH, k_BSKH, v_BSKH) -> None:
    """Raises ValueError unless these are queries, keys and values of one attention that the mesh can cut."""
    for name, x in (("q_BTNH", q_BTNH), ("k_BSKH", k_BSKH), ("v_BSKH", v_BSKH)):
        _check_array(name, x, 4)
        if x.dtype != q_BTNH.dtype:
            raise ValueError(f"{name}: {x.dtype}; must be {q_BTNH.dtype} as q_BTNH")
    (B, _, N, H), K = q_BTNH.shape, k_BSKH.shape[2]
    if (k_BSKH.shape[0], k_BSKH.shape[3]) != (B, H):
        raise ValueError(f"k_BSKH: shape {k_BSKH.shape}; must be [{B}, S, K, {H}] as q_BTNH has B={B}, H={H}")
    if v_BSKH.shape != k_BSKH.shape:
        raise ValueError(f"v_BSKH: shape {v_BSKH.shape}; must be that of k_BSKH, {k_BSKH.shape}")
    _check_cut(B, N, K)


def check_features(x_BTD, y_BSC, wq_DNH, wk_CKH, wv_CKH) -> None:
    """As `check_heads`, for what queries, keys and values are made of."""
    for name, x, dimensions in (
        ("x_BTD", x_BTD, 3),
        ("y_BSC", y_BSC, 3),
        ("wq_DNH", wq_DNH, 3),
        ("wk_CKH", wk_CKH, 3),
        ("wv_CKH", wv_CKH, 3),
    ):
        _check_array(name, x, dimensions)
    (B, _, D), C, (_, N, H) = x_BTD.shape, y_BSC.shape[2], wq_DNH.shape
    if y_BSC.dtype != x_BTD.dtype:
        raise ValueError(f"y_BSC: {y_BSC.dtype}; must be {x_BTD.dtype} as x_BTD")
    if y_BSC.shape[0] != B:
        raise ValueError(f"y_BSC: shape {y_BSC.shape}; must be [{B}, S, C] as x_BTD has B={B}")
    if wq_DNH.shape[0] != D:
        raise ValueError(f"wq_DNH: shape {wq_DNH.shape}; must be [{D}, N, H] as x_BTD has D={D}")
    if (wk_CKH.shape[0], wk_CKH.shape[2]) != (C, H):
        raise ValueError(
            f"wk_CKH: shape {wk_CKH.shape}; must be [{C}, K, {H}] as y_BSC has C={C} and wq_DNH has H={H}"
        )
    if wv_CKH.shape != wk_CKH.shape:
        raise ValueError(f"wv_CKH: shape {wv_CKH.shape}; must be that of wk_CKH, {wk_CKH.shape}")
    _check_cut(B, N, wk_CKH.shape[1])


def check_options(*, block: int, softcap: float, key_block: int, way: str = WAYS[0]) -> None:
    """Raises ValueError for an option that is out of its range."""
    if block < 1:
        raise ValueError(f"block: {block}; positions in a block of scores, at least 1")
    if not 0 <= softcap < float("inf"):
        raise ValueError(f"softcap: {softcap}; a bound for scores above 0, or 0 for none")
    if key_block < 0:
        raise ValueError(f"key_block: {key_block}; keys that are worked on at a time, or 0")
    if way not in WAYS:
        raise ValueError(f"way: {way!r}; one of {', '.join(WAYS)}")


def fit(length: int, n: int, *, rotates: bool = False) -> int:
    """The smallest length, not below this one, that n devices share equally.

    What rotates needs at least two positions on each of several devices (`round_trip.py`).
    """
    return max(-(-length // n), 2 if rotates and n > 1 else 1) * n


def chunks_of(length: int, most: int) -> int:
    """Into how many equal chunks of at most `most` positions a length is cut, or has to be filled up for."""
    least = -(-length // most)
    return next((count for count in range(least, 2 * least) if length % count == 0), least)


def segment_ids(q_segments_BT, k_segments_BS, queries, keys, T_fit: int, S_fit: int, *, ordered: bool):
    """int32 (q_ids [B, T_fit], k_ids [B, S_fit]), 0 where there is nothing; (None, None) if none are needed.

    Args:
      q_segments_BT, k_segments_BS: as given by the user; either may be None.
      queries, keys: arrays [B, T, ...] and [B, S, ...].
      T_fit, S_fit: lengths to fill up to. Filler among the queries needs no id of its own: it is cut off in
        the end and its gradients are zero. Filler among the keys must not be seen.

    Raises:
      ValueError: another shape or no integers; q_segments without k_segments; `ordered` without both.
    """
    (B, T), S = queries.shape[:2], keys.shape[1]
    for name, ids, length in (("q_segments_BT", q_segments_BT, T), ("k_segments_BS", k_segments_BS, S)):
        if ids is None:
            if ordered:
                raise ValueError(f"{name}: None; ordered=True needs the ids of queries and of keys")
            continue
        if ids.shape != (B, length):
            raise ValueError(f"{name}: shape {ids.shape}; must be {(B, length)}")
        valid = jnp.issubdtype(ids.dtype, jnp.bool_) and ids is k_segments_BS and q_segments_BT is None
        if not valid and not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"{name}: {ids.dtype}; must be integers, or bools if only keys have any")
    if q_segments_BT is not None and k_segments_BS is None:
        raise ValueError("k_segments_BS: None, but q_segments_BT is given; give both, or those of keys only")
    if k_segments_BS is None and S_fit == S:
        return None, None
    if k_segments_BS is None:
        k_segments_BS = jnp.ones((B, S), jnp.int32)
    if q_segments_BT is None:
        q_segments_BT, k_segments_BS = jnp.ones((B, T), jnp.int32), k_segments_BS > 0
    return tuple(
        jnp.pad(ids.astype(jnp.int32), ((0, 0), (0, length - ids.shape[1])))
        for ids, length in ((q_segments_BT, T_fit), (k_segments_BS, S_fit))
    )


def _check_array(name: str, x: jax.Array, dimensions: int) -> None:
    if x.ndim != dimensions or 0 in x.shape:
        raise ValueError(f"{name}: shape {x.shape}; must have {dimensions} dimensions, none of them 0")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: {x.dtype}; must be a float dtype")


def _check_cut(B: int, N: int, K: int) -> None:
    if N % K:
        raise ValueError(f"N: {N} query heads; must be a multiple of K={K} key heads")
    for letter, length, axes in (("B", B, ROWS), ("N", N, TENSOR), ("K", K, TENSOR)):
        check_divides(letter, length, axes)
