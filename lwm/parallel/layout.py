"""The zigzag order of a sequence cut over n devices (numpy only, so that data pipelines can use it).

Under a causal mask later positions see more, so n contiguous shards would give the last device nearly twice
the average work. Deal stripes of the sequence out instead, and turn back at each end:

    n = 4    stripe    0   1   2   3   4   5   6   7   8   9  10  11  12  13  14  15
             device    0   1   2   3   3   2   1   0   0   1   2   3   3   2   1   0

Every device then has the same number of (query, key) pairs, and the same number in every hop of the ring. One
turn, with 2n long stripes, is all that a long document needs. When short documents are packed into the
sequence and do not see each other, stripes differ in work; many turns with short ones even that out.
"""

import numpy as np


def zigzag_order(length: int, n: int, stripe: int = 0) -> np.ndarray:
    """Gather indices from natural to zigzag order: `x[:, zigzag_order(T, n)]` is what the devices hold.

    A device holds first its stripes of the ways forth, then those of the ways back, each in natural order.

    Args:
      length: positions in the sequence, a multiple of 2n stripes (any length if n is 1).
      n: devices on the "seq" axis.
      stripe: positions in a stripe; 0 = those of one turn, length / 2n. Attention's blocks are no longer.

    Returns:
      int32[length], a permutation; the identity for n = 1.

    Raises:
      ValueError: n < 1, stripe < 0, or turns of equal length cannot be cut.
    """
    if n < 1:
        raise ValueError(f"n: {n} devices; a ring needs at least 1")
    if stripe < 0:
        raise ValueError(f"stripe: {stripe} positions; at least 1, or 0 for one turn")
    if n == 1:
        return np.arange(length, dtype=np.int32)
    unit = 2 * n * max(stripe, 1)
    if length % unit:
        pieces = f"stripes of {stripe}" if stripe else "chunks"
        raise ValueError(f"length: {length} is not a multiple of {unit} (2 {pieces} x {n} devices)")
    turns = np.arange(length, dtype=np.int32).reshape(-1, 2 * n, stripe or length // (2 * n))
    forth_and_back = np.array([(device, 2 * n - 1 - device) for device in range(n)])
    return turns[:, forth_and_back].transpose(1, 2, 0, 3).reshape(-1)


def natural_order(length: int, n: int, stripe: int = 0) -> np.ndarray:
    """The inverse of `zigzag_order`: `x_zigzag[:, natural_order(T, n)]` is in natural order again."""
    return np.argsort(zigzag_order(length, n, stripe)).astype(np.int32)
