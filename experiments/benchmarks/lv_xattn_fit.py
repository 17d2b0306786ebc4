"""What the rows of `lv_xattn_network.py` say: the rates of the machine, speed-ups, and who is faster where.

By itself, with the predictions of a table made anew and a report:
    python -m experiments.benchmarks.lv_xattn_fit experiments/results/lv_xattn_network.csv
"""

import sys
from collections.abc import Iterable

from experiments import sweeps
from experiments.benchmarks.lv_xattn_questions import COLUMNS, KEY
from lwm.scaling.cross_attention_calibration import Calibration, Measured, calibrate
from lwm.scaling.cross_attention_time import WAYS, Shape, crossover

CELL = ("mode", "direction", "n", "mbit", "T", "S", "N", "K", "H")
PAIR = ("rotate_queries", "rotate_keys")
CLOSE = 0.2  # error of a prediction that counts as close
ALIKE = 0.1  # difference in time that is not worth choosing


def measured(row: dict) -> Measured | None:
    """A row as the calibration takes it; None if the formulas of one layer say nothing about it."""
    if row["mode"] != "layer" or row["method"] not in WAYS:
        return None
    shape = Shape(**{letter: int(row[letter]) for letter in "TSNKHn"})
    return Measured(row["method"], shape, row["direction"] == "both", row["mbit"], float(row["seconds"]))


def calibrations(rows: Iterable[dict]) -> dict[str, Calibration]:
    """The rates by number of hosts: more hosts share the same cores."""
    groups = {}
    for row in rows:
        if (own := measured(row)) is not None:
            groups.setdefault(row["n"], []).append(own)
    return {n: calibrate(own) for n, own in groups.items()}


def predict(rows: list[dict]) -> dict[str, Calibration]:
    """Fills the column "predicted" of the rows; returns the rates behind it."""
    found = calibrations(rows)
    for row in rows:
        if (own := measured(row)) is not None:
            row["predicted"] = f"{found[row['n']].predict(own):.6g}"
    return found


def cells(rows: Iterable[dict]) -> list[dict]:
    """One dictionary for each cell in which both methods were measured, all methods in turns.

    Beside what was asked: "balance" S K / (T N), 1 where both send as much; "speed_up" of LV-XAttn over the
    ring, measured, and "expected", by the predictions (nan without); "faster", the method that was faster,
    "chosen", the one that the predictions would have taken, and "lighter", the one that sends less, which
    `lwm/ops/xattn_traffic.py` takes (both empty where nothing is said).
    """
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in CELL), {})[row["method"]] = row
    found = []
    for asked, own in groups.items():
        if not all(method in own for method in PAIR):
            continue
        cell = dict(zip(CELL, asked, strict=True))
        took, wanted = (
            {m: float(own[m][column] or "nan") for m in PAIR} for column in ("seconds", "predicted")
        )
        balance = int(cell["S"]) / int(cell["T"]) / crossover(int(cell["N"]), int(cell["K"]))
        cell |= {"balance": balance, "speed_up": took["rotate_keys"] / took["rotate_queries"]}
        cell |= {"expected": wanted["rotate_keys"] / wanted["rotate_queries"]}
        cell |= {"faster": min(PAIR, key=took.get), "chosen": "", "lighter": ""}
        if all(own[method]["predicted"] for method in PAIR):
            cell["chosen"] = min(PAIR, key=wanted.get)
        if all(own[method]["formula"] for method in PAIR):
            cell["lighter"] = min(PAIR, key=lambda method, own=own: int(own[method]["formula"]))
        found.append(cell)
    return found


def report(rows: list[dict], found: dict[str, Calibration]) -> list[str]:
    """What is to be said in words, a line each."""
    lines = []
    for n, own in found.items():
        first = next(iter(own.rates.values()))
        speed = f"{first.flops / 1e9:.1f} GFLOP/s each, {first.flops / first.backward / 1e9:.1f} backward"
        hop, visit, call = (1e6 * x for x in (first.latency, first.visit, first.start))
        lines.append(f"{n} hosts: {speed}, overlap {first.overlap:g}")
        copy = f"{1e9 * first.copy:.2f} ns a byte in the device"
        lines.append(f"  besides {hop:.0f} us a hop, {visit:.0f} us a visit, {call:.0f} us a call, {copy}")
        links = (f"{_link(mbit)} {8 * rates.bandwidth / 1e6:.0f}" for mbit, rates in own.rates.items())
        lines.append(f"  Mbit/s found of {', '.join(links)}")
        worst, kinds = (
            max(map(abs, own.errors)),
            {"nothing": 0.0, "all": 1.0, "what was found": first.overlap},
        )
        means = (f"{own.overlaps[overlap]:.1%} if {what}" for what, overlap in kinds.items())
        lines.append(f"  mean error {', '.join(means)} is hidden")
        lines.append(
            f"  {own.within(CLOSE):.1%} of {len(own.errors)} rows within {CLOSE:.0%}, worst {worst:.0%}"
        )
    for mode in dict.fromkeys(cell["mode"] for cell in cells(rows)):
        own = [cell for cell in cells(rows) if cell["mode"] == mode]
        best = max(own, key=lambda cell: cell["speed_up"])
        where = (
            f"{best['n']} hosts, {_link(best['mbit'])}, S/T {int(best['S']) // int(best['T'])}, K {best['K']}"
        )
        lines.append(
            f"{mode}: LV-XAttn up to {best['speed_up']:.2f} times the ring ({where}, {best['direction']})"
        )
        for column, what in (("chosen", "the shorter prediction"), ("lighter", "fewer bytes")):
            asked = [cell for cell in own if cell[column]]
            right = sum(cell["faster"] == cell[column] for cell in asked)
            wrong = [cell["speed_up"] for cell in asked if cell["faster"] != cell[column]]
            alike = right + sum(max(ratio, 1 / ratio) <= 1 + ALIKE for ratio in wrong)
            if asked:
                lines.append(f"  {what} picks the faster one in {right} of {len(asked)} cells")
                lines.append(f"    or one that takes at most {ALIKE:.0%} longer in {alike}")
        near = sum(abs(cell["expected"] / cell["speed_up"] - 1) <= CLOSE for cell in own)
        if any(cell["chosen"] for cell in own):
            lines.append(
                f"  predicted speed-ups within {CLOSE:.0%} of the measured ones: {near} of {len(own)}"
            )
    return lines


def _link(mbit: str) -> str:
    return "no limit" if mbit == "0" else f"{mbit} Mbit/s"


def main() -> None:
    table = sweeps.Table(sys.argv[1], COLUMNS, KEY)
    print("\n".join(report(table.rows, predict(table.rows))))
    table.write()


if __name__ == "__main__":
    main()
