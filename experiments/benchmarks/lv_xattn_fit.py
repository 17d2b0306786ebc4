"""What the rows of `lv_xattn_network.py` say: the rates of the machine, speed-ups, and who is faster where.

By itself, with the predictions of a table made anew and a report:
    python -m experiments.benchmarks.lv_xattn_fit experiments/results/lv_xattn_network.csv
"""

import sys
from collections.abc import Iterable, Iterator

from experiments import sweeps
from experiments.benchmarks.lv_xattn_questions import COLUMNS, KEY
from lwm.scaling.cross_attention_calibration import Calibration, Measured, calibrate
from lwm.scaling.cross_attention_time import Shape, crossover

CELL = ("mode", "direction", "n", "mbit", "T", "S", "N", "K", "H")
PAIR = ("rotate_queries", "rotate_keys")
ALONE = {"rotate_queries": "queries_alone", "rotate_keys": "keys_alone"}  # the same with nothing sent
CLOSE = 0.2  # error of a prediction that counts as close
ALIKE = 0.1  # difference in time that is not worth choosing


def measured(rows: Iterable[dict]) -> list[tuple[dict, Measured]]:
    """The rows of one layer by LV-XAttn and by the ring, each with what the calibration takes.

    How long they take with nothing sent was measured in the same rounds. Not gathered keys: of four hosts two
    send a sixth more in gloo's reduce-scatter than the others, and than any formula says.
    """
    rows = list(rows)
    seconds = {_asked(row): float(row["seconds"]) for row in rows}
    found = []
    for row in rows:
        if row["mode"] == "layer" and row["method"] in PAIR:
            shape = Shape(**{letter: int(row[letter]) for letter in "TSNKHn"})
            alone = seconds.get(_asked(row | {"method": ALONE[row["method"]]}))
            if alone is not None:
                own = row["method"], shape, row["direction"] == "both", row["mbit"], float(row["seconds"])
                found.append((row, Measured(*own, alone)))
    return found


def _asked(row: dict) -> tuple:
    return tuple(row[name] for name in KEY)


def calibrations(rows: Iterable[dict]) -> dict[tuple[str, str], Calibration]:
    """The rates by (hosts, key heads): hosts share the same cores."""
    groups = {}
    for row, own in measured(rows):
        groups.setdefault((row["n"], row["K"]), []).append(own)
    return {key: calibrate(own) for key, own in groups.items()}


def predict(rows: list[dict]) -> dict[tuple[str, str], Calibration]:
    """Fills the column "predicted" of the rows; returns the rates behind it."""
    found = calibrations(rows)
    for row, own in measured(rows):
        row["predicted"] = f"{found[row['n'], row['K']].predict(own):.6g}"
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


def report(rows: list[dict], found: dict[tuple[str, str], Calibration]) -> list[str]:
    """What is to be said in words, a line each."""
    lines = [line for key, own in found.items() for line in _rates_in_words(*key, own)]
    groups = {}
    for cell in cells(rows):
        groups.setdefault(cell["mode"], []).append(cell)
    return lines + [line for mode, own in groups.items() for line in _cells_in_words(mode, own)]


def _rates_in_words(n: str, K: str, found: Calibration) -> Iterator[str]:
    own = next(iter(found.rates.values()))
    speeds = f"{own.flops:.2f} times as fast as alone, {own.flops / own.backward:.2f} backward"
    yield f"{n} hosts, {K} key heads: computing {speeds}, overlap {own.overlap:g}"
    visit, call = (f"{1e6 * cost:.0f} us" for cost in (own.visit, own.start))
    yield f"  besides {visit} a visit, {call} a call, {1e9 * own.copy:.2f} ns a byte in the device"
    links = (
        f"{_link(mbit)} {8 * rates.bandwidth / 1e6:.0f} and {1e6 * rates.latency:.0f}"
        for mbit, rates in found.rates.items()
    )
    yield f"  Mbit/s and us a hop found of {', '.join(links)}"
    nothing, everything, best = (found.overlaps[share] for share in (0.0, 1.0, own.overlap))
    yield f"  mean error {best:.1%}; if nothing is hidden {nothing:.1%}, if everything {everything:.1%}"
    worst = max(map(abs, found.errors))
    yield f"  {found.within(CLOSE):.1%} of {len(found.errors)} rows within {CLOSE:.0%}, worst {worst:.0%}"


def _cells_in_words(mode: str, own: list[dict]) -> Iterator[str]:
    best = max(own, key=lambda cell: cell["speed_up"])
    where = f"{best['n']} hosts, {_link(best['mbit'])}, S/T {int(best['S']) // int(best['T'])}, K {best['K']}"
    yield f"{mode}: LV-XAttn up to {best['speed_up']:.2f} times the ring ({where}, {best['direction']})"
    for column, what in (("chosen", "the shorter prediction"), ("lighter", "fewer bytes")):
        if asked := [cell for cell in own if cell[column]]:
            wrong = [cell["speed_up"] for cell in asked if cell["faster"] != cell[column]]
            right = len(asked) - len(wrong)
            alike = right + sum(max(ratio, 1 / ratio) <= 1 + ALIKE for ratio in wrong)
            yield f"  {what} picks the faster one in {right} of {len(asked)} cells"
            yield f"    or one that takes at most {ALIKE:.0%} longer in {alike}"
    if asked := [cell for cell in own if cell["chosen"]]:
        near = sum(abs(cell["expected"] / cell["speed_up"] - 1) <= CLOSE for cell in asked)
        yield f"  predicted speed-ups within {CLOSE:.0%} of the measured ones: {near} of {len(asked)}"


def _link(mbit: str) -> str:
    return "no limit" if mbit == "0" else f"{mbit} Mbit/s"


def main() -> None:
    table = sweeps.Table(sys.argv[1], COLUMNS, KEY)
    print("\n".join(report(table.rows, predict(table.rows))))
    table.write()


if __name__ == "__main__":
    main()
