"""Attention of a block and its gradient as TPU kernels: what `lwm.ops.attention` computes, by Pallas.

`attend_block` and `attend_block_grad` have the arguments and results of their namesakes there. They

  - lay heads before positions for the kernels, [B, N, T, H], and make M groups of query heads that share keys
    and fit VMEM together; keys and values are never repeated;
  - pass no masks: positions and ranges of segment ids of blocks go along as scalars (flash_tpu_tiles.py),
    tiles that see nothing are neither computed nor fetched, and whole tiles run without a mask;
  - fill up lengths that blocks do not divide, which costs a copy.

Sources: FlashAttention-2 (arXiv 2307.08691); the kernels were written for this project.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from lwm.ops.dropout import Dropout
from lwm.ops.dropout import check as check_dropout
from lwm.ops.flash_tpu_backward import backward_kv, backward_q
from lwm.ops.flash_tpu_forward import forward
from lwm.ops.flash_tpu_fused import backward
from lwm.ops.flash_tpu_tiles import Tiles, block_sizes, pad_rows
from lwm.ops.masks import Mask

HEAD_SIZES = 64, 128, 256
TYPES = {jnp.dtype(jnp.bfloat16)}, {jnp.dtype(jnp.float32)}  # of queries and keys together
Part = tuple[jax.Array, jax.Array]


def attend_block(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None = None,
    k_segments_BS: jax.Array | None = None,
    *,
    mask: Mask,
    block: int,
    q_start=0,
    k_start=0,
    softcap: float = 0.0,
    dropout: Dropout | None = None,
    part: Part | None = None,
    interpret=False,
) -> Part:
    """`lwm.ops.attention.attend_block` as a TPU kernel.

    Args:
      q_BTNH, k_BSKH, v_BSKH: bfloat16 or float32, all alike; H one of HEAD_SIZES.
      block: most positions in a block; rounded down to whole lanes (128), and halved until VMEM holds it.
      part: its buffers become the results, where the caller can give them away.
      interpret: for tests on a CPU, as in `pl.pallas_call`.
      Others: as there.

    Returns:
      (out_BTNH, lse_BTN), both float32.

    Raises:
      ValueError: a head size or type that the kernel cannot tile; heads or segments that do not fit
        together.
    """
    starts = q_start, k_start
    case = _Case(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, mask, block, starts, softcap, dropout)
    tiles, ids = case.tiles, case.ids
    out, lse = forward(
        case.split_q(q_BTNH),
        case.split_k(k_BSKH),
        case.split_k(v_BSKH),
        tuple(x[:, None] for x in ids),
        () if part is None else (case.split_q(part[0]), case.split_row(part[1], -jnp.inf)),
        tiles.facts(ids, case.starts, case.B, over="k"),
        tiles,
        cost=case.cost(products=2),
        interpret=interpret,
    )
    return case.join_q(out), case.join_row(lse)


def attend_block_grad(
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    v_BSKH: jax.Array,
    q_segments_BT: jax.Array | None,
    k_segments_BS: jax.Array | None,
    dout_BTNH: jax.Array,
    lse_BTN: jax.Array,
    delta_BTN: jax.Array,
    *,
    mask: Mask,
    block: int,
    q_start=0,
    k_start=0,
    softcap: float = 0.0,
    dropout: Dropout | None = None,
    interpret=False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`lwm.ops.attention.attend_block_grad` as a TPU kernel; as two for a single row with one key/value head.

    Args:
      q_BTNH, k_BSKH, v_BSKH, block, interpret: as for `attend_block`.
      Others: as there.

    Returns:
      (dq_BTNH, dk_BSKH, dv_BSKH), float32.

    Raises:
      ValueError: as `attend_block`.
    """
    starts = q_start, k_start
    case = _Case(q_BTNH, k_BSKH, q_segments_BT, k_segments_BS, mask, block, starts, softcap, dropout)
    tiles, ids = case.tiles, case.ids
    arguments = (
        case.split_q(q_BTNH),
        case.split_k(k_BSKH),
        case.split_k(v_BSKH),
        tuple(x[:, None] for x in ids),
        case.split_q(dout_BTNH.astype(q_BTNH.dtype)),
        # Rows that saw nothing, and filler rows, get weights of exp(-inf) = 0.
        case.split_row(jnp.where(lse_BTN > -jnp.inf, lse_BTN, jnp.inf), jnp.inf),
        case.split_row(delta_BTN, 0.0),
    )
    facts = tiles.facts(ids, case.starts, case.B, over="q")
    if case.B * case.K > 1:
        dq, dk, dv = backward(*arguments, facts, tiles, cost=case.cost(products=5), interpret=interpret)
    else:
        dk, dv = backward_kv(*arguments, facts, tiles, cost=case.cost(products=4), interpret=interpret)
        facts = tiles.facts(ids, case.starts, case.B, over="k")
        dq = backward_q(*arguments, facts, tiles, cost=case.cost(products=3), interpret=interpret)
    return case.join_q(dq), case.join_k(dk), case.join_k(dv)


def replaces_on_tpu(kernel: Callable) -> Callable:
    """Decorator: the function as it is, but `kernel` with the same arguments wherever it is compiled for TPU.

    What decides is the platform that a program is lowered for, not that of this machine. Head sizes and types
    that the kernels cannot tile stay with the function, and so do positions with gaps.
    """

    def decorate(function):
        @functools.wraps(function)
        def either(q_BTNH, k_BSKH, *others, **options):
            arrays = q_BTNH, k_BSKH, *others
            tiled = q_BTNH.shape[-1] in HEAD_SIZES and {q_BTNH.dtype, k_BSKH.dtype} in TYPES
            if not tiled or "stripes" in options:
                return function(*arrays, **options)
            return lax.platform_dependent(
                tpu=lambda: kernel(*arrays, **options), default=lambda: function(*arrays, **options)
            )

        return either

    return decorate


class _Case:
    """One call: its arguments checked, its tiles chosen, and the layouts of its arrays."""

    def __init__(self, q, k, q_segments, k_segments, mask, block, starts, softcap, dropout):
        (self.B, self.T, self.N, self.H), (self.S, self.K) = q.shape, k.shape[1:3]
        if self.N % self.K:
            raise ValueError(f"q_BTNH: {self.N} heads are not a multiple of {self.K} key/value heads")
        if self.H not in HEAD_SIZES:
            raise ValueError(f"H: {self.H} is not a head size that the TPU kernel tiles; one of {HEAD_SIZES}")
        if {q.dtype, k.dtype} not in TYPES:
            raise ValueError(f"dtype: queries {q.dtype}, keys {k.dtype}; both bfloat16 or both float32")
        if (q_segments is None) != (k_segments is None):
            raise ValueError("segments: give those of queries and of keys, or neither")
        dropout = check_dropout(dropout)
        self.itemsize = q.dtype.itemsize
        self.G, q_size, k_size = block_sizes(self.T, self.S, self.N // self.K, self.H, self.itemsize, block)
        self.M = self.N // self.G
        self.tiles = Tiles(
            mask,
            self.T,
            self.S,
            q_size,
            k_size,
            segmented=q_segments is not None,
            softcap=softcap,
            dropped=0.0 if dropout is None else dropout.rate,
        )
        self.ids = ()
        if q_segments is not None:
            q_length, k_length = self.tiles.q_length_filled, self.tiles.k_length_filled
            self.ids = _ids(q_segments, q_length), _ids(k_segments, k_length)
        self.share = _share(self.tiles, *starts)
        words = starts if dropout is None else (*starts, dropout.seed, dropout.row, dropout.head)
        self.starts = jnp.stack([jnp.asarray(x).astype(jnp.int32) for x in words])

    def split_q(self, x_BTNH: jax.Array) -> jax.Array:
        """[B, T, N, H] to [B, M, G, T, H], filled up with zeros."""
        x_BNTH = pad_rows(x_BTNH.swapaxes(1, 2), 2, self.tiles.q_length_filled)
        return x_BNTH.reshape(self.B, self.M, self.G, -1, self.H)

    def split_k(self, x_BSKH: jax.Array) -> jax.Array:
        """[B, S, K, H] to [B, K, S, H], filled up with zeros."""
        return pad_rows(x_BSKH.swapaxes(1, 2), 2, self.tiles.k_length_filled)

    def split_row(self, x_BTN: jax.Array, fill: float) -> jax.Array:
        """[B, T, N] to [B, M, G, 1, T]."""
        x_BNT = pad_rows(x_BTN.swapaxes(1, 2), 2, self.tiles.q_length_filled, fill)
        return x_BNT.reshape(self.B, self.M, self.G, 1, -1)

    def join_q(self, x: jax.Array) -> jax.Array:
        """Undoes `split_q`."""
        return x.reshape(self.B, self.N, -1, self.H)[:, :, : self.T].swapaxes(1, 2)

    def join_k(self, x: jax.Array) -> jax.Array:
        """Undoes `split_k`."""
        return x[:, :, : self.S].swapaxes(1, 2)

    def join_row(self, x: jax.Array) -> jax.Array:
        """Undoes `split_row`."""
        return x.reshape(self.B, self.N, -1)[:, :, : self.T].swapaxes(1, 2)

    def cost(self, products: int) -> pl.CostEstimate:
        """What the scheduler is told of a kernel with so many matrix products in a tile."""
        pairs = int(self.B * self.N * self.T * self.S * self.share)
        sides = (
            self.B * self.H * (self.T * self.N * (self.itemsize + 4) + 2 * self.S * self.K * self.itemsize)
        )
        read_again = 2 * pairs // (self.G * self.tiles.q_size) * self.H * self.itemsize
        return pl.CostEstimate(
            flops=2 * products * pairs * self.H, transcendentals=pairs, bytes_accessed=sides + read_again
        )


def _ids(segments, length):
    """Ids as the kernels take them: 0 for padding and for what fills up the last block."""
    return pad_rows(jnp.maximum(segments.astype(jnp.int32), 0), 1, length)


def _share(tiles: Tiles, q_start, k_start) -> float:
    """Of all pairs, how many meet by position: counted by rows of blocks, or guessed if starts are traced."""
    mask = tiles.mask
    if not mask.causal:
        return 1.0
    if not isinstance(q_start, int) or not isinstance(k_start, int):
        return min(0.5, mask.window / tiles.k_length) if mask.window else 0.5
    middle = q_start - k_start + (np.arange(tiles.q_count) + 0.5) * tiles.q_size
    low = np.clip(middle - mask.window, 0, tiles.k_length) if mask.window else 0.0
    return float(np.mean(np.clip(middle, 0, tiles.k_length) - low)) / tiles.k_length
