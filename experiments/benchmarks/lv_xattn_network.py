r"""Cross-attention over links that are really slow: LV-XAttn beside ring attention and gathered keys.

    python -m experiments.benchmarks.lv_xattn_network              # says first how long it may take
    python -m experiments.benchmarks.lv_xattn_network --quick
    python -m experiments.benchmarks.lv_xattn_network --modes=model --ratios=64,256,1024

Question  How much faster is a cross-attention whose queries travel than one whose keys do, over a slow link?
Paper     2502.02406: up to 45.85 times in the cross-attention layers, 5.58 (10.62) times in a whole step.
Hosts     network namespaces with a link each, limited by `tc tbf` in both directions (`network_hosts.sh`:
          needs root and iproute2, leaves nothing behind); on each a process with a core and a JAX device,
          gloo between them. Four hosts share two cores. Two hosts send in turns, whatever travels: see
          `lv_xattn_methods.py`. To measure beside other work, put a real-time priority with short turns
          before the command:
          sysctl kernel.sched_rr_timeslice_ms=1 kernel.sched_rt_runtime_us=-1; chrt -r 1 …
Modes     layer  one cross-attention, its q, k and v given. There are fewer key heads than query heads, so
                 many that the crossover, S K / N = T, lies between two ratios of the sweep
          model  the tiny cross-attention model, loss and gradients (`lv_xattn_model.py`)
Methods   `lv_xattn_methods.py`; all those of a cell take turns, round after round.

A row has the median and the quartiles, over the rounds, of the seconds of the slowest host; the bytes that
left the host that sent most ("sent") and each host, with headers and acknowledgements, beside those of the
formula; and "predicted": seconds by `lwm/scaling/cross_attention_time.py`, in which computing takes as long
as it did with nothing sent ("queries_alone", "keys_alone"), under the rates that fit all rows of one layer
with as many hosts and key heads best. What is in the output is not made again.
"""

import argparse
import itertools
import os
import pathlib
import statistics
import sys

from experiments import sweeps
from experiments.benchmarks.lv_xattn_fit import predict, report
from experiments.benchmarks.lv_xattn_hosts import Hosts, Refused
from experiments.benchmarks.lv_xattn_questions import (
    COLUMNS,
    DIRECTIONS,
    KEY,
    METHODS,
    SHAPES,
    command,
    expected,
    formula,
    make_cells,
    rounds_for,
)

LONGEST = 21_600  # seconds that hosts are held


def measure(hosts: Hosts, cell: dict, direction: str, patience: float) -> dict[str, dict]:
    """Of each method in one direction: seconds and bytes."""
    programs = [[method, direction] for method in METHODS[cell["mode"], direction]]

    def turns(rounds: int) -> list[list]:
        """Of each program, in each round: (seconds of all hosts, bytes of all hosts)."""
        answers = hosts.ask(time=programs, rounds=rounds)
        of_programs = zip(*answers, strict=True)
        return [[tuple(zip(*own, strict=True)) for own in zip(*each, strict=True)] for each in of_programs]

    rounds = rounds_for(sum(max(seconds) for [(seconds, _)] in turns(1)), patience)
    found = {}
    for (method, _), taken in zip(programs, turns(rounds), strict=True):
        slowest, sent = [max(seconds) for seconds, _ in taken], [counts for _, counts in taken]
        lower, middle, upper = statistics.quantiles(slowest, n=4, method="inclusive")
        each = [int(statistics.median(host)) for host in zip(*sent, strict=True)]
        found[method] = {"seconds": middle, "lower": lower, "upper": upper, "rounds": rounds}
        found[method] |= {"sent": max(each), "sent_each": " ".join(map(str, each))}
    return found


def sweep(table: sweeps.Table, todo: list[dict], seconds: float, chosen: argparse.Namespace) -> None:
    """Makes the rows of these cells, host count by host count; hosts stand for three times `seconds`."""
    made = {"cores": len(os.sched_getaffinity(0)), "commit": sweeps.commit(), "note": chosen.note}
    for n, group in itertools.groupby(todo, key=lambda cell: cell["n"]):
        with Hosts(n, min(int(600 + 3 * seconds), LONGEST)) as hosts:
            hosts.start()
            prepared = None
            for cell in group:
                case = {name: value for name, value in cell.items() if name != "mbit"}
                if case != prepared:
                    hosts.limit(0)  # nobody waits for a slow link while programs are made
                    programs = [[m, way] for way in chosen.directions for m in METHODS[cell["mode"], way]]
                    hosts.ask(prepare=case, programs=programs)
                    prepared = case
                hosts.limit(cell["mbit"])
                for direction in chosen.directions:
                    load = f"{os.getloadavg()[0]:.1f}"
                    for method, row in measure(hosts, cell, direction, chosen.patience).items():
                        asked = cell | {"method": method, "direction": direction}
                        if not table.has(**asked):
                            row |= {"load": load, "command": command(cell, chosen.directions)}
                            wire = formula(method, cell, direction)
                            table.add(made | asked | row | {"formula": "" if wire is None else wire})


def missing(table: sweeps.Table, cells: list[dict], directions: list[str]) -> list[dict]:
    """The cells of which not all rows are there."""

    def whole(cell: dict) -> bool:
        asked = [(method, way) for way in directions for method in METHODS[cell["mode"], way]]
        return all(table.has(**cell, method=method, direction=way) for method, way in asked)

    return [cell for cell in cells if not whole(cell)]


def arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--modes", type=words, default=["layer"], help="layer,model")
    parser.add_argument("--hosts", type=numbers, default=[2, 4])
    parser.add_argument("--mbit", type=numbers, default=[200, 500, 1000, 0], help="Mbit/s; 0 = no limit")
    parser.add_argument("--key_heads", type=numbers, default=[8, 2], help="of one layer, for 16 query heads")
    parser.add_argument("--ratios", type=numbers, default=[1, 4, 16, 64, 256], help="S / T")
    parser.add_argument("--queries", type=int, default=0, help="T; by default that of the mode")
    parser.add_argument("--directions", type=words, default=list(DIRECTIONS), help="forward,both")
    parser.add_argument(
        "--patience", type=float, default=10, help="seconds for the rounds of a cell, if 3 fit"
    )
    parser.add_argument(
        "--quick", action="store_true", help="2 hosts, 200 Mbit/s, 8 key heads, ratios 1 and 64"
    )
    parser.add_argument("--note", default="", help="goes into the rows")
    output = sweeps.ROOT / "experiments/results/lv_xattn_network.csv"
    parser.add_argument("--output", type=pathlib.Path, default=output)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.hosts, chosen.mbit, chosen.key_heads, chosen.ratios = [2], [200], [8], [1, 64]
    for name, known in (("modes", tuple(SHAPES)), ("directions", DIRECTIONS)):
        if unknown := set(getattr(chosen, name)) - set(known):
            parser.error(f"--{name}: {', '.join(sorted(unknown))}; of {', '.join(known)}")
    for name, least in (("hosts", 2), ("mbit", 0), ("key_heads", 1), ("ratios", 1)):
        if min(getattr(chosen, name)) < least:
            parser.error(f"--{name}: {min(getattr(chosen, name))}; at least {least}")
    try:
        asked = chosen.modes, chosen.hosts, chosen.mbit, chosen.key_heads, chosen.ratios, chosen.queries
        chosen.cells = make_cells(*asked)
    except ValueError as error:
        parser.error(str(error))
    return chosen


def main() -> None:
    chosen = arguments()
    table = sweeps.Table(chosen.output, COLUMNS, KEY)
    todo = missing(table, chosen.cells, chosen.directions)
    seconds = sum(expected(cell, chosen.directions, len(chosen.mbit), chosen.patience) for cell in todo)
    print(f"{len(todo)} cells to make, about {seconds / 60:.0f} minutes", flush=True)
    try:
        sweep(table, todo, seconds, chosen)
    except Refused as refused:
        print(f"error: {refused}", file=sys.stderr)
        raise SystemExit(2) from None
    print("\n".join(report(table.rows, predict(table.rows))), flush=True)
    table.write()


if __name__ == "__main__":
    main()
