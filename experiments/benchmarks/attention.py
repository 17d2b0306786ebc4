r"""The scoreboard of attention: ours beside ringattention 0.1.2, XLA's dense attention and jax's splash.

    python experiments/benchmarks/attention.py --cases=a,b,c          # about half an hour on two idle cores
    python experiments/benchmarks/attention.py --cases=tpu            # compiled only; needs '.[tpu]', no TPU
    python experiments/benchmarks/attention.py --cases=a --tokens=16384 --rounds=5

Causal, one sequence, forward and forward + backward. The cases:
    a    a ring of 8 virtual CPU devices in one process, which share all cores
    b    a ring of 2 processes pinned to one core each: hardware that is really parallel, where balance shows
    c    one device
    tpu  a ring of eight v5e, bfloat16, 8 heads of 128, as the TPU compiler makes it

Each case at each length is one process (b: two) in which all contenders take turns, round after round.
Seconds are medians over the rounds, ratios medians of (theirs / ours) in the same round. `of_matmul` is the
share of the throughput of a 2048 x 2048 product in the same rounds, counting the visible half of the scores.
Errors are relative to the largest value of float64 dense attention, at 1024 tokens. Temporaries, permutes
and bytes sent are those of one device, read from the compiled program; `exposed` permutes are seen in TPU
programs only, on CPUs nothing is asynchronous. `executed_over_ideal`: tiles run by the busiest device over
its fair share of those in which anything is visible.

Rows know the command that makes them. What is in the output is not made again, unless --again is given. Needs
`pip install '.[scoreboard]'`.
"""

import argparse
import csv
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHUNKS = (256, 512, 1024)  # of ringattention, as far as a device has so many tokens
COLUMNS = [
    *("case", "name", "chunk", "tokens", "devices", "processes", "heads", "head_dim", "dtype", "rounds"),
    *("seconds_forward", "seconds_both", "ratio_forward", "ratio_both"),
    *("ratio_forward_range", "ratio_both_range", "gflops_forward", "gflops_both", "matmul_gflops"),
    *("of_matmul_forward", "of_matmul_both", "error_out", "error_gradients"),
    *("temporaries_forward_mib", "temporaries_both_mib", "permutes_forward", "permutes_both"),
    *("sent_forward_mib", "sent_both_mib", "exposed_forward", "exposed_both", "executed_over_ideal", "note"),
    *("cores", "load", "commit", "versions", "command"),
]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compared on what.

    Attributes:
      rounds: of each length; 0 = compiled only.
      block: of ours, as our models choose it: small tiles where several devices share the cache of a core.
      pod: name of a TPU topology, "" for CPUs.
    """

    rounds: dict[int, int]
    devices: int
    block: int
    processes: int = 1
    heads: int = 4
    head_dim: int = 64
    dtype: str = "float32"
    pod: str = ""


CASES = {
    "a": Case({4096: 5, 16_384: 5, 32_768: 3}, devices=8, block=128),
    "b": Case({8192: 5, 16_384: 3}, devices=2, processes=2, block=128),
    "c": Case({4096: 9, 16_384: 0}, devices=1, block=512),
    "tpu": Case(
        {65_536: 0, 262_144: 0, 1_048_576: 0},
        devices=8, block=512, heads=8, head_dim=128, dtype="bfloat16", pod="v5e:2x4",
    ),
}  # fmt: skip


def questions(chosen) -> list[dict]:
    """What is asked: for every case and length one dictionary, with the command that asks it alone."""
    found = []
    for name in chosen.cases.split(","):
        if name not in CASES:
            raise SystemExit(f"--cases: {name!r}; choose from {', '.join(CASES)}")
        case = CASES[name]
        for tokens in chosen.tokens or case.rounds:
            rounds = case.rounds.get(tokens, 3) if chosen.rounds is None else chosen.rounds
            rounds = 0 if case.pod else rounds
            block, local = chosen.block or case.block, max(tokens // case.devices, 1)
            chunks = sorted({min(chunk, local) for chunk in chosen.chunks or CHUNKS})
            command = f"python experiments/benchmarks/attention.py --cases={name} --tokens={tokens}"
            command += f" --rounds={rounds}"
            command += f" --block={block}" if block != case.block else ""
            command += f" --chunks={','.join(map(str, chunks))}" if chosen.chunks else ""
            if tokens < 1 or tokens % (2 * case.devices) or any(local % chunk for chunk in chunks):
                share = f"{tokens} tokens over {case.devices} devices"
                raise SystemExit(f"--tokens: {share} do not make two equal runs each, in chunks of {chunks}")
            asked = dataclasses.asdict(case) | {"rounds": rounds, "block": block, "chunks": chunks}
            found.append(asked | {"case": name, "tokens": tokens, "command": command})
    return found


def run(asked: dict) -> list[dict]:
    """Starts the worker of one question, or its two, and returns the rows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    words = [sys.executable, str(HERE / "attention_case.py"), json.dumps(asked)]
    workers = [
        subprocess.Popen(
            [*words, str(process), port],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        for process in range(asked["processes"])
    ]
    answers = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"error: {asked['command']} failed; see its message above")
    return json.loads(answers[0].strip().splitlines()[-1])


def provenance() -> dict:
    """On what, and with what, the rows are made."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", "lwm", "experiments/benchmarks")
    names = ("jax", "jaxlib", "ringattention", "numpy")
    return {
        "cores": f"{len(os.sched_getaffinity(0))} {platform.machine()}",
        "commit": git("rev-parse", "--short", "HEAD") + ("+" if changed else ""),
        "versions": " ".join(f"{name}=={importlib.metadata.version(name)}" for name in names),
    }


def read(path: pathlib.Path) -> list[dict]:
    """The rows that are there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: pathlib.Path, rows: list[dict]) -> None:
    """All rows, in one step, so that a stopped run leaves whole ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".new").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    path.with_suffix(".new").replace(path)


def show(rows: list[dict]) -> None:
    """The columns that matter most, as a table."""
    head = ("name", "chunk", "seconds_both", "ratio_both", "of_matmul_both", "temporaries_both_mib")
    head += ("permutes_both", "sent_both_mib", "exposed_both", "executed_over_ideal", "error_gradients")
    lines = [head, *([str(row.get(column, "")) for column in head] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
    for row in rows:
        if row["note"]:
            print(f"{row['name']} {row['chunk']}: {row['note']}")
    for turn in ("forward", "both"):
        peers = [row for row in rows if row["name"].startswith("ringattention") and f"ratio_{turn}" in row]
        if peers:
            best = min(peers, key=lambda row: row[f"seconds_{turn}"])
            ratio = best[f"ratio_{turn}"]
            print(f"{turn}: {ratio} x as fast as ringattention with its best chunk, {best['chunk']}")


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", default="a,b,c", help="of a, b, c, tpu; comma-separated")
    parser.add_argument("--tokens", type=numbers, help="lengths; by default those of the case")
    parser.add_argument("--rounds", type=int, help="0 = compile only; by default as the case says")
    parser.add_argument("--chunks", type=numbers, help="of ringattention; 256,512,1024")
    parser.add_argument("--block", type=int, help="of ours; by default that of the case")
    parser.add_argument("--again", action="store_true", help="make rows again that are there")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "experiments/results/attention.csv")
    chosen = parser.parse_args()
    for asked in questions(chosen):
        rows = read(chosen.output)
        if any(row["command"] == asked["command"] for row in rows) and not chosen.again:
            print(f"there already: {asked['command']}", flush=True)
            continue
        print(asked["command"], flush=True)
        load = f"{os.getloadavg()[0]:.1f}"
        made = [asked | row | provenance() | {"load": load} for row in run(asked)]
        write(chosen.output, [row for row in rows if row["command"] != asked["command"]] + made)
        show(made)
    plot(chosen.output)


def plot(path: pathlib.Path) -> None:
    """A picture beside the table, if matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no plot: pip install matplotlib", flush=True)
        return
    from attention_plot import draw

    draw(read(path), path.with_suffix(".png"))


if __name__ == "__main__":
    main()
