"""What the sweep of `dreamllm.py` says: one arm against another, by the differences of its seeds.

    python -m experiments.dreamllm_verdicts --csv=experiments/results/dreamllm.csv

Prints a table in Markdown: means over seeds, the mean difference with Student's 95 % interval, and a verdict,
which is "no difference seen" where that interval holds 0: not that there is none. With one seed there is no
verdict. Of twenty comparisons of equals one is called a difference. Arms are compared after as many steps,
but for what the decoder draws from its own text encoder: it has its own steps. Then each pair of arms in a
sentence, what a doubling of the number of queries changes, a question that was asked when the sweep had been
seen, and the means of each arm beside the baselines of the scores.
"""

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from statistics import linear_regression
from typing import NamedTuple

from experiments import dreamllm_arms, sweeps
from experiments.dreamllm import COLUMNS, KEY
from lwm.evaluation.intervals import student

_KIND, _COLOUR, _TONE, _WHAT = (
    f"{asked}_is_this_conditional_accuracy_2"
    for asked in ("which_kind", "which_colour", "which_tone", "what")
)
DRAWN = (_KIND, _COLOUR, "fd_cls_2")
# What `means` shows, in words.
SHOWN = {
    "kind read": "questions_which_kind_is_this_accuracy",
    "colour read": "questions_which_colour_is_this_accuracy",
    "words, chrF": "questions_what_is_this_chrf",
    "kind drawn": f"stamps_{_KIND}",
    "colour drawn": f"stamps_{_COLOUR}",
    "tone drawn": f"stamps_{_TONE}",
    "FD-cls": "stamps_fd_cls_2",
}
# How the names of what is compared begin.
SAID, DREW = ("questions_",), tuple(f"stamps_{score}" for score in DRAWN)
JOINT = ("joint", "joint_even")
PAIRS = (
    *((one, arm, SAID) for one in JOINT for arm in ("comprehension", "comprehension_flops")),
    *((one, arm, DREW) for one in JOINT for arm in ("creation", "creation_flops")),
    ("align", "creation", DREW),
    *((f"queries_{count}", "creation", DREW) for count in dreamllm_arms.QUERIES),
)
# The same score through the language model and by the decoder's text encoder: arm, parts, score.
ENCODERS = (
    *(
        ("creation", "parts", f"stamps_{texts}{score}")
        for texts in ("", "short_", "long_")
        for score in DRAWN
    ),
    *(("composition", "emoji_parts", f"stamps_{score}") for score in (_TONE, _WHAT)),
)


class Compared(NamedTuple):
    """what: a score · one, other: means of two arms over seeds · low, high: of the difference."""

    what: str
    arms: str
    one: float
    other: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        if self.seeds < 2:
            return "one seed"
        if self.low <= 0 <= self.high:
            return "no difference seen"
        return "better" if self.gain > 0 else "worse"

    @property
    def gain(self) -> float:
        """The first's mean over the other's, positive for what is better."""
        less = self.what.endswith("_nats") or "_fd_cls_" in self.what
        return (self.other - self.one) if less else (self.one - self.other)


def longest(rows: Sequence[dict]) -> list[dict]:
    """The rows of the runs of the most steps of each arm."""
    most = {row["arm"]: 0 for row in rows}
    for row in rows:
        most[row["arm"]] = max(most[row["arm"]], int(row["steps"]))
    return [row for row in rows if int(row["steps"]) == most[row["arm"]]]


def compared(rows: Sequence[dict]) -> Iterator[Compared]:
    """Yields every comparison of which there are rows.

    PAIRS over the runs of the most steps at which both arms have a seed, ENCODERS over the `longest` runs.
    """
    names = sorted({row["name"] for row in rows})
    asked = [
        (one, name, other, name, _as_long(rows, (one, other), name))
        for one, other, scores in PAIRS
        for name in names
        if name.startswith(scores)
    ]
    ends = longest(rows)
    asked += [(one, name, other, f"encoder_{name}", ends) for one, other, name in ENCODERS]
    for one, name, other, other_name, chosen in asked:
        found = _by_seed(chosen, one, name), _by_seed(chosen, other, other_name)
        seeds = sorted(found[0].keys() & found[1].keys())
        if seeds:
            first, second = ([own[seed] for seed in seeds] for own in found)
            low, high = student([a - b for a, b in zip(first, second, strict=True)])
            means = sum(first) / len(seeds), sum(second) / len(seeds)
            yield Compared(name, f"{one} against {other}", *means, low, high, len(seeds))


def in_words(found: Sequence[Compared]) -> Iterator[str]:
    """Yields a sentence on each pair of arms: in how many scores the first is better or worse."""
    for arms in dict.fromkeys(row.arms for row in found):
        own = Counter(row.verdict for row in found if row.arms == arms)
        counts = ", ".join(f"{verdict} in {count}" for verdict, count in own.most_common())
        yield f"{arms}: {counts} of {own.total()} scores"


def doublings(rows: Sequence[dict]) -> Iterator[str]:
    """Yields a sentence on each score: its slope over log2 of the queries, of seeds with all numbers."""
    ends = longest(rows)
    for name in DREW:
        found = {count: _by_seed(ends, arm, name) for count, arm in dreamllm_arms.BY_QUERIES.items()}
        seeds = sorted(set.intersection(*map(set, found.values())))
        slopes = [
            linear_regression([math.log2(count) for count in found], [own[seed] for own in found.values()])
            for seed in seeds
        ]
        if slopes:
            low, high = student([line.slope for line in slopes])
            mean = sum(line.slope for line in slopes) / len(slopes)
            of = f"{len(seeds)} seeds of {len(found)} numbers of queries"
            yield f"{name}: {mean:+.2g} [{low:.2g}, {high:.2g}] for each doubling of the queries, {of}"


def means(rows: Sequence[dict]) -> Iterator[str]:
    """Yields the lines of a table in Markdown: of each arm's longest runs the means over seeds.

    Of parts, what the decoder draws from its own text encoder. The last line has the baselines.
    """
    scores, baselines = defaultdict(list), defaultdict(list)
    for row in longest(rows):
        name = row["name"].removeprefix("encoder_")
        scores[row["arm"], name].append(float(row["value"]))
        if row["baseline"]:
            baselines["baseline", name].append(float(row["baseline"]))
    yield f"| arm | {' | '.join(SHOWN)} |"
    yield "|" + "---|" * (len(SHOWN) + 1)
    for arm in [*dict.fromkeys(arm for arm, _ in scores), "baseline"]:
        own = [(scores | baselines).get((arm, name), ()) for name in SHOWN.values()]
        cells = [f"{sum(values) / len(values):.3g}" if values else "" for values in own]
        yield f"| {arm} | {' | '.join(cells)} |"


def _as_long(rows: Sequence[dict], arms: tuple[str, str], name: str) -> list[dict]:
    """The rows of a score of the most steps at which both arms have a seed."""
    runs: dict[str, set[tuple[int, str]]] = {arm: set() for arm in arms}
    for row in rows:
        if row["arm"] in runs and row["name"] == name:
            runs[row["arm"]].add((int(row["steps"]), row["seed"]))
    most = max((steps for steps, _ in set.intersection(*runs.values())), default=0)
    return [row for row in rows if int(row["steps"]) == most]


def _by_seed(rows: Sequence[dict], arm: str, name: str) -> dict[str, float]:
    return {row["seed"]: float(row["value"]) for row in rows if (row["arm"], row["name"]) == (arm, name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", default=str(sweeps.ROOT / "experiments/results/dreamllm.csv"))
    table = sweeps.Table(parser.parse_args().csv, COLUMNS, KEY)
    print("| arms | score | first | second | difference, 95 % | seeds | the first is |")
    print("|---|---|---|---|---|---|---|")
    found = list(compared(table.rows))
    for row in found:
        both, by = f"{row.one:.3g} | {row.other:.3g}", f"{row.one - row.other:+.3g}"
        by += f" [{row.low:.3g}, {row.high:.3g}]"
        print(f"| {row.arms} | {row.what} | {both} | {by} | {row.seeds} | {row.verdict} |")
    print("", *in_words(found), "", *doublings(table.rows), "", *means(table.rows), sep="\n")


if __name__ == "__main__":
    main()
