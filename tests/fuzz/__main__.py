"""python -m tests.fuzz; see the package."""

import argparse
import functools
import json
import sys
from pathlib import Path

from tests.fuzz import runner
from tests.fuzz.targets import TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets together")
    parser.add_argument("--seconds", type=float, default=1e9, help="of a target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="NAME,NAME: these targets")
    parser.add_argument("--replay", action="store_true", help="the cases instead")
    parser.add_argument("--forget", action="store_true", help="keep no findings as cases")
    parser.add_argument("--progress", type=Path, help="JSON of what was done, to go on from")
    chosen = parser.parse_args()
    if unknown := set(filter(None, chosen.only.split(","))) - {target.name for target in TARGETS}:
        parser.error(f"--only: no target {', '.join(sorted(unknown))}")
    targets = [one for one in TARGETS if not chosen.only or one.name in chosen.only.split(",")]
    done = json.loads(chosen.progress.read_text()) if chosen.progress and chosen.progress.exists() else {}
    total, tallies = sum(target.share for target in targets), []
    print(f"{'target':24}{'inputs':>9}{'parsed':>9}{'refused':>9}{'findings':>9}{'ms each':>9}", flush=True)
    for target in targets:
        if chosen.replay:
            tallies.append(
                runner.run(target, runner.cases(target), functools.partial(runner.case, target), warm=False)
            )
        else:
            first, count = done.get(target.name, 0), -(-chosen.inputs * target.share // total)
            names = [str(number) for number in range(first, count)]
            content = functools.partial(runner.spoiled, target, chosen.seed)
            tallies.append(runner.run(target, names, content, seconds=chosen.seconds))
            done[target.name] = first + tallies[-1].inputs
            if not chosen.forget:
                runner.keep(tallies[-1])
            if chosen.progress:
                chosen.progress.write_text(json.dumps(done))
        if tallies[-1].inputs:
            _show(tallies[-1])
    found = sum(len(tally.findings) for tally in tallies)
    parsed, refused = (sum(getattr(tally, name) for tally in tallies) for name in ("parsed", "refused"))
    print(f"{'all':24}{sum(tally.inputs for tally in tallies):9}{parsed:9}{refused:9}{found:9}")
    sys.exit(1 if found else 0)


def _show(tally: runner.Tally) -> None:
    each = 1000 * tally.seconds / tally.inputs
    counts = (tally.inputs, tally.parsed, tally.refused, len(tally.findings))
    print(f"{tally.target:24}" + "".join(f"{count:9}" for count in counts) + f"{each:9.2f}", flush=True)
    reasons = {}
    for found in tally.findings:
        reasons.setdefault(found.kind, []).append(found)
    for alike in sorted(reasons.values(), key=len, reverse=True)[:20]:
        print(f"    {len(alike):5} x {alike[0].reason} (input {alike[0].name})", flush=True)


if __name__ == "__main__":
    main()
