"""What `lv_xattn_network.py` asks: cells, in each several methods in two directions, and how rows are known.

A cell is a mode, a number of hosts, a rate and the shape of the cross-attention, as a dictionary:
    mode  "layer" or "model"          n     hosts                   mbit  Mbit/s of each link, 0 = no limit
    T, S  queries and keys            N, K  query and key heads     H     size of a head
"""

import itertools
from collections.abc import Sequence

from lwm.scaling.cross_attention_time import WAYS, Shape, sent

MODULE = "experiments.benchmarks.lv_xattn_network"
DIRECTIONS = ("forward", "both")
METHODS = {
    ("layer", "forward"): ("rotate_queries", "rotate_keys", "gather_keys", "alone", "hop"),
    ("layer", "both"): ("rotate_queries", "rotate_keys", "gather_keys", "alone"),
    ("model", "forward"): ("rotate_queries", "rotate_keys"),
    ("model", "both"): ("rotate_queries", "rotate_keys"),
}
# Of one layer the key heads are swept; the model has those of its size "tiny".
HEADS, KEY_HEADS, HEAD_SIZE = (
    {"layer": 16, "model": 4},
    {"layer": None, "model": (2,)},
    {"layer": 64, "model": 32},
)
QUERIES = {"layer": 128, "model": 128}
ROUNDS = 3, 9  # of a cell: at least and at most
KEY = ("mode", "method", "direction", "n", "mbit", "T", "S", "N", "K", "H")
COLUMNS = (
    *KEY,
    *("seconds", "lower", "upper", "rounds", "sent", "sent_each", "formula", "predicted"),
    *("cores", "load", "commit", "note", "command"),
)
# To plan with: FLOP/s of the machine, Mbit/s without a limit, seconds to call and to compile a program.
GUESS_FLOPS, GUESS_MBIT, GUESS_CALL, GUESS_COMPILE = 60e9, 4000, 0.01, 1.5


def make_cells(
    modes: Sequence[str],
    hosts: Sequence[int],
    rates: Sequence[int],
    key_heads: Sequence[int],
    ratios: Sequence[int],
    queries: int = 0,
) -> list[dict]:
    """All cells, in an order in which programs are made once and used at all rates.

    Args:
      ratios: S / T.
      queries: T; 0 = that of the mode.

    Raises:
      ValueError: the hosts do not divide T twice, or the key heads the query heads.
    """
    found = []
    for mode, n in itertools.product(modes, hosts):
        T, N = queries or QUERIES[mode], HEADS[mode]
        if T % (2 * n):
            raise ValueError(f"--queries: {T} do not make two equal runs on each of {n} hosts")
        for K, ratio, mbit in itertools.product(KEY_HEADS[mode] or key_heads, ratios, rates):
            if N % K:
                raise ValueError(f"--key_heads: {K} do not divide {N} query heads")
            found.append(dict(mode=mode, n=n, mbit=mbit, T=T, S=ratio * T, N=N, K=K, H=HEAD_SIZE[mode]))
    return found


def command(cell: dict, directions: Sequence[str]) -> str:
    """That asks a cell alone."""
    words = [f"python -m {MODULE} --modes={cell['mode']} --hosts={cell['n']} --mbit={cell['mbit']}"]
    words += [f"--key_heads={cell['K']} --ratios={cell['S'] // cell['T']} --queries={cell['T']}"]
    return " ".join([*words, f"--directions={','.join(directions)}"])


def formula(method: str, cell: dict, direction: str) -> int | None:
    """Bytes that a host sends; None where no formula says so."""
    if cell["mode"] != "layer":
        return None
    if method == "hop":
        return 4 * cell["S"] // cell["n"] * cell["K"] * cell["H"]
    if method not in WAYS:
        return 0
    shape = Shape(**{letter: cell[letter] for letter in "TSNKHn"})
    return sum(sent(method, shape, backward=back) for back in (False, True)[: 1 + (direction == "both")])


def expected(cell: dict, directions: Sequence[str], rates: int, patience: float) -> float:
    """Seconds that a cell may take, with its share of compiling for so many rates: a guess, to plan with."""
    total = 0.0
    for direction in directions:
        methods = METHODS[cell["mode"], direction]
        bits = 8 * sum(formula(method, cell, direction) or 0 for method in methods)
        work = 4 * cell["T"] * cell["S"] * cell["N"] * cell["H"] * (3.5 if direction == "both" else 1)
        seconds = bits / 1e6 / (cell["mbit"] or GUESS_MBIT) + len(methods) * (work / GUESS_FLOPS + GUESS_CALL)
        total += seconds * (1 + rounds_for(seconds, patience))
        total += len(methods) * GUESS_COMPILE * cell["n"] / 2 / rates
    return total


def rounds_for(seconds: float, patience: float) -> int:
    """How many rounds of so many seconds a cell gets."""
    return min(max(int(patience / seconds), ROUNDS[0]), ROUNDS[1])
