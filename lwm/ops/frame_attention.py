"""Attention inside each frame of a video, as encoders and resamplers of frames need it.

The frames of a row lie one after another along the sequence, T = frames x queries of one frame and S = frames
x keys of one frame, and are cut over "seq" by whole frames. To every device its frames are so many rows of a
batch, attended to by blocks, and nothing is sent.
"""

import functools

import jax

from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, per_device, pieces, spec
from lwm.ops.lv_xattn import attend_shards
from lwm.ops.masks import EVERYTHING
from lwm.ops.xattn_arguments import check_heads, check_options
from lwm.ops.xattn_ways import How


def frame_attention(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, *, frames: int, block: int = 512
) -> jax.Array:
    """Softmax attention in which a query sees all keys of its own frame, and those only.

    Args:
      q_BTNH, k_BSKH, v_BSKH: any float dtype, all alike; B cut over ("data", "fsdp"), T and S over "seq",
        heads over "tensor". Query head n reads key head n // (N / K).
      frames: in each row; the first T / frames queries and S / frames keys are those of the first frame.
      block: most positions in a block of scores.

    Returns:
      out_BTNH in the dtype of q.

    Raises:
      ValueError: shapes or dtypes that do not fit together; frames that do not divide T and S, or that "seq"
        does not divide; block < 1.
    """
    check_heads(q_BTNH, k_BSKH, v_BSKH)
    check_options(block=block, softcap=0.0, key_block=0)
    (T, S), n = (q_BTNH.shape[1], k_BSKH.shape[1]), pieces(SEQUENCE)
    if frames < 1 or T % frames or S % frames:
        raise ValueError(f"frames: {frames}; must divide T={T} and S={S}")
    if frames % n:
        raise ValueError(f"frames: {frames} is not a multiple of seq={n}; fill them up")
    heads = spec(ROWS, SEQUENCE, TENSOR, ())
    local = functools.partial(_local, frames // n, How(1, EVERYTHING, block))
    return per_device(local, (heads, heads, heads), heads)(q_BTNH, k_BSKH, v_BSKH)


def _local(frames, how, q, k, v):
    def by_frame(x):
        B, T, N, H = x.shape
        return x.reshape(B * frames, T // frames, N, H)

    out = attend_shards("gather_queries", how, by_frame(q), by_frame(k), by_frame(v), None, None)
    return out.reshape(q.shape)
