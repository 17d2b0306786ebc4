"""What the runs of experiments/scaling.py say of the laws, and of the Scaling Law Hypothesis in words.

Question  Which law, fitted to small runs, tells the losses of the largest models and the most tokens?
Paper     2409.06754 (the hypothesis), 2001.08361 (Kaplan), 2203.15556 (Chinchilla), 2301.03728 (mixed-modal).
Command   python -m experiments.scaling_laws --csv=experiments/results/scaling.csv
Hardware  one CPU core, a minute.
Expected  laws that level off extrapolate better than straight lines in logarithms; whatever comes is told.

Losses are bits a raw byte, held out are the runs of the largest P or of most tokens, and laws are fitted to
the others by least squares of the log loss. Intervals draw errors of fitted runs and the held-out runs anew.
First come runs of one modality; then all of them together, by laws for each modality and by the hypothesis as
one law, as it was published; then text beside other modalities.
"""

import argparse
import math
import os
import sys

from experiments.scaling_data import VOCABULARIES
from experiments.sweeps import ROOT
from lwm.errors import UserError
from lwm.scaling import laws
from lwm.scaling.comparison import aicc, error_ratio, judge, judge_together, largest, table
from lwm.scaling.fitting import Fit, fit
from lwm.scaling.laws import Law
from lwm.scaling.runs_table import Runs, read_runs

MODALITIES = tuple(VOCABULARIES)
TOKENS = tuple(f"{name}_tokens" for name in MODALITIES)
CSV = ROOT / "experiments/results/scaling.csv"
FORMS = [(slopes, performance) for slopes in ("one", "free") for performance in ("loss", "log loss")]
Asked = tuple[Fit, Runs]  # a fit, and the runs that it has not seen


def alone(path: os.PathLike | str, modality: str, tokenizer: str = "") -> Runs:
    """The runs of one modality alone, by its first tokenizer or by that one; bits a raw byte."""
    only = {f"{name}_tokens": "0" for name in MODALITIES if name != modality}
    only[f"{modality}_tokenizer"] = tokenizer or next(iter(VOCABULARIES[modality]))
    return read_runs(path, tokens=f"{modality}_tokens", loss=f"{modality}_bits_per_byte", only=only)


def beside(path: os.PathLike | str, target: str = "text") -> Runs:
    """All runs with a modality's first tokenizer, alone or beside others; a column of tokens for each."""
    only = {f"{target}_tokenizer": next(iter(VOCABULARIES[target]))}
    index = MODALITIES.index(target)
    return read_runs(path, tokens=TOKENS, loss=f"{target}_bits_per_byte", target=index, only=only)


def rivals(modalities=("tokens",)) -> list[Law]:
    """The laws for one modality; the hypothesis in its four forms."""
    forms = [laws.hypothesis(modalities, slopes=slopes, performance=form) for slopes, form in FORMS]
    return [laws.chinchilla(), laws.kaplan(), *forms]


def ask(law: Law, runs: Runs) -> Asked:
    """The law fitted to all but the largest runs, and these."""
    mask = largest(runs)
    return fit(law, runs.take(~mask), delta=math.inf), runs.take(mask)


def pooled(path: os.PathLike | str) -> Runs:
    """The runs of one modality alone, of all modalities, each with its column of tokens."""
    import numpy as np

    parts = [alone(path, name) for name in MODALITIES]
    tokens = np.zeros((sum(part.size for part in parts), len(parts)))
    start = 0
    for column, part in enumerate(parts):
        tokens[start : start + part.size, column] = part.tokens[:, 0]
        start += part.size
    parameters, loss = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("parameters", "loss")
    )
    return Runs(parameters, tokens, loss)


def verdict(hypothesis: list[Asked], rival: list[Asked], draws: int) -> str:
    """One sentence: whether the hypothesis does as well as a rival on runs that neither has seen."""
    value, (low, high) = error_ratio(hypothesis, rival, draws=draws)
    off = judge_together("", hypothesis, draws=draws)
    promise = "too little loss" if off.held_out_bias < 0 else "too much loss"
    lean = off.held_out_bias_interval[0] * off.held_out_bias_interval[1] > 0
    about = f"its error is {value:.2f} [{low:.2f}, {high:.2f}] times that of {rival[0][0].law.name}'s law"
    about += f" and it foretells {promise} by {abs(off.held_out_bias):.3f} bits a byte" if lean else ""
    if low > 1:
        return f"REFUTED on these runs: {about}."
    if high < 1:
        return f"CONFIRMED on these runs: {about}."
    return f"NOT DECIDED by these runs: {about}."


def best(asked: list[Asked]) -> Asked:
    """That of the least AICc on the runs that were fitted."""
    return min(asked, key=lambda one: aicc(one[0]))


def of_each(path: os.PathLike | str, draws: int) -> tuple[list[str], dict[str, list[Asked]]]:
    """Lines about each modality alone; and each law by its name, asked about all of them in turn."""
    lines, by_law = [], {}
    for modality in MODALITIES:
        runs = alone(path, modality)
        asked = [ask(law, runs) for law in rivals()]
        for one in asked:
            by_law.setdefault(one[0].law.name, []).append(one)
        lines += [f"\n**{modality}**: {asked[0][0].runs.size} runs fitted, {asked[0][1].size} held out\n"]
        lines += [table([judge(*one, draws=draws) for one in asked])]
        for one in (best(asked[2:4]), best(asked[4:6])):
            lines += [f"\nThe {one[0].law.name}: {verdict([one], asked[:1], draws)}"]
    return lines, by_law


def together(path: os.PathLike | str, by_law: dict[str, list[Asked]], draws: int) -> list[str]:
    """Lines about all modalities, each run of one of them."""
    runs = pooled(path)
    one_law = [ask(law, runs) for law in rivals(MODALITIES)[2:]]
    rows = [judge_together(f"{name}, for each", asked, draws=draws) for name, asked in by_law.items()]
    for one in one_law:
        rows.append(judge_together(f"{one[0].law.name}, for all", [one], draws=draws))
    lines = [f"\n**All modalities together**: {runs.size} runs\n", table(rows)]
    as_published = best(one_law[:2])
    lines += [f"\nThe hypothesis as one law for all: {verdict([as_published], by_law['Chinchilla'], draws)}"]
    return lines


def mixed(path: os.PathLike | str, draws: int) -> list[str]:
    """Lines about text beside other modalities: what do their tokens do for it?"""
    runs = beside(path)
    chosen = [*rivals(MODALITIES), laws.effective_data(MODALITIES)]
    asked = [ask(law, runs) for law in chosen]
    fitted, unseen = asked[0][0].runs.size, asked[0][1].size
    lines = [f"\n**Text, alone and beside others**: {fitted} runs fitted, {unseen} held out\n"]
    lines += [table([judge(*one, draws=draws) for one in asked])]
    lines += [f"\nThe hypothesis: {verdict([best(asked[2:4])], asked[:1], draws)}"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", default=str(CSV), help="of experiments/scaling.py")
    parser.add_argument("--draws", type=int, default=200, help="of each bootstrap")
    chosen = parser.parse_args()
    try:
        lines, by_law = of_each(chosen.csv, chosen.draws)
        lines += together(chosen.csv, by_law, chosen.draws) + mixed(chosen.csv, chosen.draws)
        print("\n".join(lines))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
