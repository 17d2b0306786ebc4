"""What the runs of experiments/scaling.py say of the laws, and of the Scaling Law Hypothesis in words.

Question  Which law, fitted to small runs, tells the losses of the largest models and the most tokens?
Paper     2409.06754 (the hypothesis), 2001.08361 (Kaplan), 2203.15556 (Chinchilla).
Command   python -m experiments.scaling_laws --csv=experiments/results/scaling.csv
Hardware  one CPU core, a minute.
Expected  laws that level off extrapolate better than straight lines in logarithms; whatever comes is told.

Losses are bits a raw byte, held out are the runs of the largest P or of most tokens, and laws are fitted to
the others by least squares of the log loss. Intervals draw errors of fitted runs and the held-out runs anew.
First come runs of one modality; then all of them together, by laws for each modality and by the hypothesis as
one law, as it was published; then text beside other modalities (pairs: experiments/scaling_mixtures.py).
lwm/scaling/verdicts.py has the rules of the verdicts. Questions that a grid has too few rows for yet say so.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments.scaling_data import VOCABULARIES
from experiments.sweeps import ROOT
from lwm.errors import UserError
from lwm.scaling import laws
from lwm.scaling.comparison import Judgement, aicc, chance, judge_together, largest, table
from lwm.scaling.fitting import Fit, fit
from lwm.scaling.laws import Law
from lwm.scaling.runs_table import Runs, TooFewRuns, read_runs
from lwm.scaling.verdicts import Verdict, compare, overall

MODALITIES = tuple(VOCABULARIES)
TOKENS = tuple(f"{name}_tokens" for name in MODALITIES)
CSV = ROOT / "experiments/results/scaling.csv"
TOGETHER, BESIDE = "all modalities together", "text beside others"
FORMS = [(slopes, performance) for slopes in ("one", "free") for performance in ("loss", "log loss")]
Asked = tuple[Fit, Runs]  # a fit, and runs that it has not seen


class Answer(NamedTuple):
    """What laws say in one place: of a modality alone, of all together, of text beside others.

    Attributes:
      contenders: by name, the fits of a law and what each is asked about: one, or one for each modality.
      judgements: of the contenders, in their order.
      verdicts: of the hypothesis by the name of its form: with one slope, as published, and with free slopes.
        Loss or log loss is the form of the lower AICc on fitted runs: held-out ones have no say in that.
      seeds: of `chance`: how far runs lie apart that differ in their seed alone.
    """

    where: str
    contenders: dict[str, list[Asked]]
    judgements: list[Judgement]
    verdicts: dict[str, Verdict]
    seeds: tuple[float, int]

    @property
    def published(self) -> str:
        """The form of the hypothesis with one slope."""
        return next(iter(self.verdicts))

    @property
    def counts(self) -> tuple[int, int]:
        """Runs fitted, and held out."""
        fits = dict.fromkeys(found for found, _ in self.contenders[self.published])
        return sum(found.runs.size for found in fits), sum(
            unseen.size for _, unseen in self.contenders[self.published]
        )


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


def pooled(path: os.PathLike | str, modalities: Sequence[str] = MODALITIES) -> Runs:
    """The runs of one modality alone, of several modalities in turn, each with its column of tokens."""
    parts = [alone(path, name) for name in modalities]
    tokens = np.zeros((sum(part.size for part in parts), len(parts)))
    start = 0
    for column, part in enumerate(parts):
        tokens[start : start + part.size, column] = part.tokens[:, 0]
        start += part.size
    parameters, loss = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("parameters", "loss")
    )
    return Runs(parameters, tokens, loss)


def hypotheses(modalities: Sequence[str], forms=FORMS, **more: str) -> list[Law]:
    return [laws.hypothesis(modalities, slopes=slopes, performance=form, **more) for slopes, form in forms]


def rivals(modalities: Sequence[str] = ("tokens",)) -> list[Law]:
    """The laws for one modality; the hypothesis in its four forms."""
    return [laws.chinchilla(), laws.kaplan(), *hypotheses(modalities)]


def ask(law: Law, runs: Runs) -> Asked:
    """The law fitted to all but the largest runs, and these."""
    mask = largest(runs)
    return fit(law, runs.take(~mask), delta=math.inf), runs.take(mask)


def answer(where: str, contenders: dict[str, list[Asked]], rival: str, seeds: tuple, draws: int) -> Answer:
    """Everything that is said in one place; the hypothesis is set beside `rival`."""
    claims = [best(contenders, f"hypothesis, {slopes}") for slopes in ("one", "free")]
    judged = [judge_together(name, parts, draws=draws) for name, parts in contenders.items()]
    said = {name: compare(contenders[name], contenders[rival], draws=draws) for name in claims}
    return Answer(where, contenders, judged, said, seeds)


def best(contenders: Mapping[str, list[Asked]], start: str) -> str:
    """Of the names that start so, but for those of laws for each modality, the one of least AICc."""
    own = [name for name in contenders if name.startswith(start) and not name.endswith("for each")]
    return min(own, key=lambda name: aicc(*dict.fromkeys(found for found, _ in contenders[name])))


def of_modality(path: os.PathLike | str, modality: str, draws: int = 200) -> Answer:
    """The runs of one modality alone."""
    runs = alone(path, modality)
    contenders = {law.name: [ask(law, runs)] for law in rivals()}
    return answer(modality, contenders, "Chinchilla", chance(runs), draws)


def together(path: os.PathLike | str, answers: Sequence[Answer], draws: int = 200) -> Answer:
    """Of answers about modalities alone: laws for each of them, and the hypothesis as one law for all.

    As losses of different modalities lie apart, the one law may have a constant for each.

    Raises:
      TooFewRuns: answers about fewer than two modalities.
    """
    if len(answers) < 2:
        raise TooFewRuns(f"{len(answers)} of {len(MODALITIES)} modalities have an answer; two are needed")
    contenders = {}
    for name in answers[0].contenders:
        contenders[f"{name}, for each"] = [each.contenders[name][0] for each in answers]
    names = [each.where for each in answers]
    runs = pooled(path, names)
    masks = [largest(alone(path, name)) for name in names]
    mask, of = np.concatenate(masks), np.repeat(range(len(masks)), list(map(len, masks)))
    for law in hypotheses(names) + hypotheses(names, FORMS[:2], constants="each"):
        found = fit(law, runs.take(~mask), delta=math.inf)
        # By modality, so that its held-out runs are drawn as those of the laws for each.
        contenders[law.name] = [(found, runs.take(mask & (of == index))) for index in range(len(names))]
    return answer(TOGETHER, contenders, "Chinchilla, for each", chance(runs), draws)


def mixed(path: os.PathLike | str, draws: int = 200) -> Answer:
    """Text, alone and beside other modalities: what do their tokens do for it?

    Raises:
      TooFewRuns: text is nowhere beside each of the others.
    """
    runs = beside(path)
    if missing := [name for name, own in zip(MODALITIES, runs.tokens.T, strict=True) if not own.any()]:
        raise TooFewRuns(f"no runs of text beside {', '.join(missing)}")
    chosen = [*rivals(MODALITIES), laws.effective_data(MODALITIES)]
    contenders = {law.name: [ask(law, runs)] for law in chosen}
    return answer(BESIDE, contenders, "Chinchilla", chance(runs), draws)


def ask_all(questions: Mapping[str, Callable]) -> tuple[dict, dict[str, str]]:
    """Answers by name; and of questions for which there are too few rows yet, why."""
    found, why = {}, {}
    for name, question in questions.items():
        try:
            found[name] = question()
        except TooFewRuns as error:
            why[name] = str(error)
    return found, why


def answers(path: os.PathLike | str, draws: int = 200) -> tuple[dict[str, Answer], dict[str, str]]:
    """All answers by where, and why others are not there yet."""
    found, why = ask_all({name: lambda name=name: of_modality(path, name, draws) for name in MODALITIES})
    parts = list(found.values())
    more, why_not = ask_all(
        {TOGETHER: lambda: together(path, parts, draws), BESIDE: lambda: mixed(path, draws)}
    )
    return found | more, why | why_not


def told(one: Answer) -> list[str]:
    """Lines about an answer."""
    (fitted, unseen), (apart, free) = one.counts, one.seeds
    lines = [f"\n**{one.where}**: {fitted} runs fitted, {unseen} held out"]
    lines[0] += f"; runs of other seeds differ by {apart:.4f} ({free} degrees of freedom)" if free else ""
    lines += ["", table(one.judgements)]
    return lines + [f"\nThe {name}: {verdict.sentence}." for name, verdict in one.verdicts.items()]


def conclusion(found: Mapping[str, Answer], why: Iterable[str]) -> str:
    """The hypothesis as published, over all places."""
    verdicts = {where: one.verdicts[one.published] for where, one in found.items()}
    return f"The Scaling Law Hypothesis, one slope as published: {overall(verdicts, list(why))}."


def print_answers(description: str, lines_of: Callable[[str, int], list[str]]) -> None:
    """Reads --csv and --draws, and prints what `lines_of` says of them; a mistake is one line and code 2."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", default=str(CSV), help="of experiments/scaling.py")
    parser.add_argument("--draws", type=int, default=200, help="of each bootstrap")
    chosen = parser.parse_args()
    try:
        print("\n".join(lines_of(chosen.csv, chosen.draws)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def lines(path: os.PathLike | str, draws: int) -> list[str]:
    """All that is said of the laws."""
    found, why = answers(path, draws)
    said = [line for one in found.values() for line in told(one)]
    said += [f"\n**{where}**: too few rows yet ({reason})" for where, reason in why.items()]
    return [*said, f"\n{conclusion(found, why)}"]


def main() -> None:
    print_answers(__doc__, lines)


if __name__ == "__main__":
    main()
