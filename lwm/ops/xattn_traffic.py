"""What a device sends in a cross-attention, to the byte, by each of the ways of `xattn_ways.py`.

The counts are those of the compiled program (segments, if there are any, come on top: four bytes a position
and hop for whatever travels). Per device, with t = T / n queries and s = S / n keys, w bytes in a number and
o = 2 bytes in a travelling output for 16-bit inputs, else 4:

    rotate_queries,   forward    (n - 1) B t N (H w + H o + 4 [lse] + 4 [scale of out, if o = 2])
    gather_queries    backward   (n - 1) B t N (H w [q] + H w [dout] + 8 [lse, delta] + 4 H [dq])

    rotate_keys       forward    (n - 1) B s K 2 H w
                      backward   (n - 1) B s K (2 H w + 8 H [dK, dV])

Grouped heads weigh against the queries: they send less where T N < S K or so. What rotates needs two
positions a device, for the halves that hide its first and last transfer; a single query a device is better
gathered.
"""

import dataclasses

import jax.numpy as jnp

from lwm.ops.xattn_arguments import fit
from lwm.ops.xattn_ways import WAYS


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Bytes that a device sends, `forward` and `backward`."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


@dataclasses.dataclass(frozen=True)
class Choice:
    """The way that sends least, one sentence about why, and the traffic of all ways."""

    way: str
    why: str
    traffic: dict[str, Traffic]


def traffic(way: str, *, B: int, T: int, S: int, N: int, K: int, H: int, n: int, dtype) -> Traffic:
    """What a device sends in one cross-attention without segments.

    Args:
      way: one of `xattn_ways.WAYS`.
      B, N, K: rows, query heads and key heads as one device has them (after "data", "fsdp" and "tensor").
      T, S: all queries and all keys.
      H: head size.
      n: devices on "seq".
      dtype: of queries, keys and values.

    Raises:
      ValueError: an unknown way; a length, count or size below 1; N is not a multiple of K.
    """
    for name, value in {"B": B, "T": T, "S": S, "N": N, "K": K, "H": H, "n": n}.items():
        if value < 1:
            raise ValueError(f"{name}: {value}; must be at least 1")
    if N % K:
        raise ValueError(f"N: {N} query heads; must be a multiple of K={K} key heads")
    if way not in WAYS:
        raise ValueError(f"way: {way!r}; one of {', '.join(WAYS)}")
    if n == 1:
        return Traffic(0, 0)
    w = jnp.dtype(dtype).itemsize
    if way == "rotate_keys":
        hop = B * fit(S, n, rotates=True) // n * K
        return Traffic((n - 1) * hop * 2 * H * w, (n - 1) * hop * (2 * H * w + 8 * H))
    hop = B * fit(T, n, rotates=way == "rotate_queries") // n * N
    part = 2 * H + 8 if w == 2 else 4 * H + 4
    return Traffic((n - 1) * hop * (H * w + part), (n - 1) * hop * (2 * H * w + 8 + 4 * H))


def choose(*, B: int, T: int, S: int, N: int, K: int, H: int, n: int, dtype, training: bool = True) -> Choice:
    """The way that sends the fewest bytes, for one shape of cross-attention.

    Args:
      B, T, S, N, K, H, n, dtype: as for `traffic`.
      training: count the backward too.

    Returns:
      A `Choice`. Where bytes are equal, the way that comes first in `xattn_ways.WAYS` is taken: what rotates
      is hidden behind computation, and a device holds an n-th of it at a time.

    Raises:
      ValueError: as `traffic`.
    """
    all_ways = {way: traffic(way, B=B, T=T, S=S, N=N, K=K, H=H, n=n, dtype=dtype) for way in WAYS}
    sent = {way: of.total if training else of.forward for way, of in all_ways.items()}
    best = min(sent, key=sent.get)
    return Choice(best, _why(best, sent, T, S, N, K, n), all_ways)


def _why(best: str, sent: dict[str, int], T: int, S: int, N: int, K: int, n: int) -> str:
    if n == 1:
        return "One device sends nothing."
    queries, keys, gathered = (f"{sent[way] / 2**20:.4g} MiB" for way in WAYS)
    if best == "rotate_keys":
        return (
            f"{S} keys of {K} heads are less to send than {T} queries of {N} heads with their outputs: "
            f"{keys} a device, rotating the queries {queries}."
        )
    if best == "gather_queries":
        return (
            f"{T} queries are too few to fill two halves on each of {n} devices: gathered at once they are "
            f"{gathered} a device, filled up to rotate {queries}, and rotating {S} keys takes {keys}."
        )
    return (
        f"{T} queries of {N} heads with their outputs are less to send than {S} keys of {K} heads: {queries} "
        f"a device, rotating the keys {keys}; gathering the queries takes {gathered} that no work hides."
    )
