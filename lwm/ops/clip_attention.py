"""Attention of decoded text to a clip that was watched before: its keys and values stay where they are.

They are computed once, and differ from those of a cache in that nothing is added to them and in what an id
means: not the position of a token but that from which on the text may see the frame. New tokens come in the
two ways of `cached_attention.py`: the few that every device of "seq" has, each of which attends to its own
share of the clip before all are merged; or a chunk of a prompt that is cut over "seq", whose queries travel
(LV-XAttn, arXiv 2502.02406).
"""

import functools
from typing import NamedTuple

import jax
from jax import lax

from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, per_device, spec
from lwm.ops.cached_attention import merge_all, over_slots
from lwm.ops.lv_xattn import lv_xattn
from lwm.ops.slots import held


class Clip(NamedTuple):
    """What cross-attention layers know of frames; B over ("data", "fsdp"), S over "seq", K over "tensor".

    Attributes:
      k_LBSKH, v_LBSKH: keys and values of every cross-attention layer.
      ids_BS: int32, 1 + the text position from which on a key is seen; 0 = not there, seen by nobody.
    """

    k_LBSKH: jax.Array
    v_LBSKH: jax.Array
    ids_BS: jax.Array


def attend_clip(
    q_BTNH: jax.Array,
    positions_BT: jax.Array,
    clip: Clip,
    layer: jax.Array,
    *,
    spread: bool,
    block: int = 512,
) -> jax.Array:
    """Attention of T new tokens to the keys of one layer that they may see.

    Args:
      q_BTNH: in the dtype of the clip; heads over "tensor".
      positions_BT: int32, -1 = padding, which sees nothing.
      layer: int32 scalar, number of the cross-attention layer.
      spread: T is cut over "seq", in any order; else every device of "seq" has all tokens.
      block: most positions in a block of scores.

    Returns:
      out_BTNH in the dtype of q; rows that see nothing are exactly 0.

    Raises:
      ValueError: another number of rows than the clip has; shapes that do not go together.
    """
    B, rows = q_BTNH.shape[0], clip.ids_BS.shape[0]
    if rows != B:
        raise ValueError(f"clip: {rows} rows were watched, but {B} rows of text come; watch a clip for each")
    if spread:
        k, v = (lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in clip[:2])
        return lv_xattn(q_BTNH, k, v, positions_BT + 1, clip.ids_BS, ordered=True, block=block)
    heads, few = spec(ROWS, (), TENSOR, ()), spec(ROWS, ())
    local = per_device(
        functools.partial(_whole, block),
        (heads, few, held(), held(), spec(ROWS, SEQUENCE), spec()),
        heads,
    )
    return local(q_BTNH, positions_BT, *clip, layer)


def _whole(block, q, positions_BT, k_LBSKH, v_LBSKH, ids_BS, layer):
    part = over_slots(block, q, k_LBSKH, v_LBSKH, positions_BT + 1, ids_BS, layer, ids_BS.shape[1])
    return merge_all(part).astype(q.dtype)
