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
    ("layer", "forward"): (
        "rotate_queries",
        "rotate_keys",
        "gather_keys",
        "queries_alone",
        "keys_alone",
        "hop",
    ),
    ("layer", "both"): ("rotate_queries", "rotate_keys", "gather_keys", "queries_alone", "keys_alone"),
    ("model", "forward"): ("rotate_queries", "rotate_keys"),
    ("model", "both"): ("rotate_queries", "rotate_keys"),
}
SHAPES = {
    "layer": {"T": 128, "N": 16, "H": 64},  # K is swept
    "model": {"T": 128, "N": 4, "K": 2, "H": 32},  # as its size "tiny" says
}
ROUNDS = 3, 9  # of a cell: at least and at most
KEY = ("mode", "method", "direction", "n", "mbit", "T", "S", "N", "K", "H")
COLUMNS = (
    *KEY,
    *("seconds", "lower", "upper", "rounds", "sent", "sent_each", "formula", "predicted"),
    *("cores", "load", "commit", "note", "command"),
)
# To plan with: FLOP/s of the machine, Mbit/s without a limit, seconds to call and to compile a program, bytes
# of the parameters that a model gathers.
GUESS_FLOPS, GUESS_MBIT, GUESS_CALL, GUESS_COMPILE, GUESS_PARAMETERS = 60e9, 4000, 0.01, 1.5, 12e6


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
        shape = SHAPES[mode]
        T, N = queries or shape["T"], shape["N"]
        if T % (2 * n):
            raise ValueError(f"--queries: {T} do not make two equal runs on each of {n} hosts")
        for K, ratio, mbit in itertools.product([shape["K"]] if "K" in shape else key_heads, ratios, rates):
            if N % K:
                raise ValueError(f"--key_heads: {K} do not divide {N} query heads")
            found.append(shape | dict(mode=mode, n=n, mbit=mbit, T=T, S=ratio * T, K=K))
    return found


def command(cell: dict, directions: Sequence[str]) -> str:
    """That asks a cell alone."""
    words = [f"python -m {MODULE} --modes={cell['mode']} --hosts={cell['n']} --mbit={cell['mbit']}"]
    words += [f"--key_heads={cell['K']} --ratios={cell['S'] // cell['T']} --queries={cell['T']}"]
    return " ".join([*words, f"--directions={','.join(directions)}"])


def formula(method: str, cell: dict, direction: str) -> int | None:
    """Bytes that a host sends; None where no formula says so: a model sends parameters as well."""
    return layer_bytes(method, cell, direction) if cell["mode"] == "layer" else None


def layer_bytes(method: str, cell: dict, direction: str) -> int:
    """Bytes that a host sends in one cross-attention."""
    if method == "hop":
        return 4 * cell["S"] // cell["n"] * cell["K"] * cell["H"]
    if method not in WAYS:
        return 0
    shape = Shape(**{letter: cell[letter] for letter in "TSNKHn"})
    return sum(sent(method, shape, backward=back) for back in (False, True)[: 1 + (direction == "both")])


def expected(cell: dict, directions: Sequence[str], rates: int, patience: float) -> float:
    """Seconds that a cell may take, with its share of compiling for so many rates: a guess, to plan with."""
    total, model = 0.0, cell["mode"] == "model"
    for direction in directions:
        methods = METHODS[cell["mode"], direction]
        count = sum(layer_bytes(method, cell, direction) for method in methods)
        count = 2 * count + len(methods) * GUESS_PARAMETERS if model else count
        bits = 8 * count * (2 if cell["n"] == 2 else 1)  # two hosts take turns, see `lv_xattn_methods.py`
        work = 4 * cell["T"] * cell["S"] * cell["N"] * cell["H"] * (3.5 if direction == "both" else 1)
        computing = len(methods) * ((1 + model) * work / GUESS_FLOPS + GUESS_CALL)
        seconds = bits / 1e6 / (cell["mbit"] or GUESS_MBIT) + computing
        total += seconds * (1 + rounds_for(seconds, patience))
        total += len(methods) * GUESS_COMPILE * (1 + 4 * model) * cell["n"] / 2 / rates
    return total


def rounds_for(seconds: float, patience: float) -> int:
    """How many rounds of so many seconds a cell gets."""
    return min(max(int(patience / seconds), ROUNDS[0]), ROUNDS[1])
