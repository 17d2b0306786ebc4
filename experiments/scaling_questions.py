"""Three claims of the Scaling Law Hypothesis, asked of the rows of experiments/scaling.py.

Question  Does a tokenizer matter only by the number of its tokens, T / C? Does the law stand being told that
          one corpus is two modalities? Does more of another modality let a smaller model do as well in text?
Paper     2409.06754.
Command   python -m experiments.scaling_questions --csv=experiments/results/scaling.csv
Hardware  one CPU core, seconds.
Expected  tokenizers differ at equal T / C; the law depends on names, as a sum of logarithms is not that of
          a sum; at this size other modalities help text little, or harm it. Whatever comes is told.

Losses are bits a raw byte; intervals of 95 %.
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import f as fisher
from scipy.stats import t as student_t

from experiments import scaling_laws
from experiments.scaling_data import VOCABULARIES
from experiments.scaling_laws import CSV, MODALITIES
from lwm.errors import UserError
from lwm.evaluation.intervals import student
from lwm.scaling import laws
from lwm.scaling.allocation import parameters_for
from lwm.scaling.comparison import rmse
from lwm.scaling.fitting import fit
from lwm.scaling.resampling import percentiles, residual_bootstrap
from lwm.scaling.runs_table import Runs, TooFewRuns, make_runs, read_columns


class Offset(NamedTuple):
    """Bits a raw byte that a tokenizer's runs lie above those of the first, at equal size and tokens."""

    tokenizer: str
    runs: int
    above: float
    low: float
    high: float


class Collapse(NamedTuple):
    """parameters: the size that was asked. offsets: of tokenizers. f, p: of Fisher's test that all are 0.
    runs: of every tokenizer, at that size and the lengths that others than the first have."""

    modality: str
    parameters: float
    offsets: list[Offset]
    f: float
    p: float
    runs: dict[str, Runs]

    @property
    def verdict(self) -> str:
        far = max(self.offsets, key=lambda one: abs(one.above))
        first, words = next(iter(VOCABULARIES[self.modality])), "REFUTED" if self.p < 0.05 else "NOT REFUTED"
        about = (
            f"{far.tokenizer} is {far.above:+.3f} [{far.low:+.3f}, {far.high:+.3f}] bits a byte from {first}"
        )
        return f"{self.modality}: {words}, at equal T / C {about} (F = {self.f:.1f}, p = {self.p:.1g})"


def collapse(path: os.PathLike | str, modality: str) -> Collapse:
    """Whether tokenizers reach equal losses with equal tokens, T / C, at the largest size that has them all.

    A loss is taken as one of its number of tokens, whatever the curve, and an offset of its tokenizer;
    offsets that change with the number count as errors.

    Raises:
      TooFewRuns: too few for an offset of each tokenizer.
    """
    of = {name: scaling_laws.alone(path, modality, name) for name in VOCABULARIES[modality]}
    sizes = set.intersection(*(set(runs.parameters.tolist()) for runs in of.values()))
    own = [runs.take(runs.parameters == max(sizes, default=0)) for runs in of.values()]
    lengths = set().union(*(runs.tokens[:, 0].tolist() for runs in own[1:]))
    own = [runs.take(np.isin(runs.tokens[:, 0], list(lengths))) for runs in own]
    tokens, y = (
        np.concatenate([runs.tokens[:, 0] for runs in own]),
        np.concatenate([runs.loss for runs in own]),
    )
    curve = (tokens[:, None] == np.array(sorted(lengths))).astype(float)
    belongs = np.repeat(np.arange(len(own)), [runs.size for runs in own])[:, None] == np.arange(1, len(own))
    each = np.column_stack([curve, belongs])
    free = len(y) - each.shape[1]
    if free < 1 or np.linalg.matrix_rank(each) < each.shape[1]:
        wanted = f"{len(y)} runs of {modality} for {each.shape[1]} numbers"
        raise TooFewRuns(f"{path}: {wanted}; let the grid go on")
    found = np.linalg.lstsq(each, y, rcond=None)[0]
    left = float(np.square(y - each @ found).sum())
    more = float(np.square(y - curve @ np.linalg.lstsq(curve, y, rcond=None)[0]).sum())
    halves = student_t.ppf(0.975, free) * np.sqrt(left / free * np.diag(np.linalg.inv(each.T @ each)))
    others = zip(list(of)[1:], own[1:], found[len(lengths) :], halves[len(lengths) :], strict=True)
    offsets = [Offset(name, runs.size, one, one - half, one + half) for name, runs, one, half in others]
    ratio = (more - left) / len(offsets) / (left / free)
    p = float(fisher.sf(ratio, len(offsets), free))
    return Collapse(modality, max(sizes), offsets, ratio, p, dict(zip(of, own, strict=True)))


class Split(NamedTuple):
    """What relabelling a corpus changes: in the loss that the law foretells; in its errors, refitted.

    Nothing was trained anew, so the loss itself changes by 0. rmse_as_one, rmse_as_two: of held-out runs,
    with one name and with more. names: how many.
    """

    modality: str
    foretold: float
    low: float
    high: float
    rmse_as_one: float
    rmse_as_two: float
    names: int = 2

    @property
    def verdict(self) -> str:
        change = f"{self.foretold:+.3f} [{self.low:+.3f}, {self.high:+.3f}] bits a byte"
        refuted = "REFUTED" if self.low * self.high > 0 else "NOT REFUTED"
        count = "two" if self.names == 2 else self.names
        return (
            f"{self.modality}: {refuted}, {count} names for one corpus change the foretold loss by {change}"
        )


def split(path: os.PathLike | str, modality: str, draws: int = 200, names: int = 2) -> Split:
    """The hypothesis, fitted to one modality, asked of the same runs when equal parts have own names."""
    runs = scaling_laws.alone(path, modality)
    one, two = laws.hypothesis((modality,)), laws.hypothesis([f"{modality} {i}" for i in range(names)])
    halves = make_runs(runs.parameters, np.repeat(runs.tokens / names, names, axis=1), runs.loss)
    found = fit(one, runs, delta=math.inf)

    def change(theta):
        return float((two.predict(theta, halves) - one.predict(theta, runs)).mean())

    drawn = np.array([[change(theta)] for theta in residual_bootstrap(found, draws)])
    errors = []
    for law, own in ((one, runs), (two, halves)):
        refitted, unseen = scaling_laws.ask(law, own)
        errors.append(rmse(refitted.predict(unseen), unseen.loss))
    return Split(modality, change(found.theta), *percentiles(drawn)[0], *errors, names)


class Edge(NamedTuple):
    """What other modalities do for text.

    changes: (modalities beside text, times its tokens) -> (runs, mean change of bits a byte of text against
      the same model on the same text alone, low, high), Student's intervals over sizes and lengths, wide
      enough that all hold together with 95 % (Bonferroni).
    worth: of a token of each other modality, in tokens of text, by the effective-data law: value, low, high.
    smaller: times -> parameters that reach the same loss with so many times the tokens of text in each
      other modality, over those with text alone, by the same law: value, low, high; NaN where none do.
    """

    changes: dict[tuple[str, int], tuple[int, float, float, float]]
    worth: dict[str, tuple[float, float, float]]
    smaller: dict[float, tuple[float, float, float]]

    @property
    def verdict(self) -> str:
        helps = [key for key, (_, _, _, high) in self.changes.items() if high < 0]
        harms = [key for key, (_, _, low, _) in self.changes.items() if low > 0]
        told = [f"{name} x {times}" for name, times in helps], [f"{name} x {times}" for name, times in harms]
        word = "CONFIRMED" if helps and not harms else "REFUTED" if harms and not helps else "BOUNDED"
        helped, harmed = (", ".join(names) or "none" for names in told)
        most = max(0.0, *(-low for _, _, low, _ in self.changes.values()))
        limit = "" if word == "CONFIRMED" else f"; nowhere better by more than {most:.3f} bits a byte"
        return f"{word} on these runs: text is better beside {helped}; worse beside {harmed}{limit}"


def edge(path: os.PathLike | str, draws: int = 200, times: Sequence[float] = (1, 4)) -> Edge:
    """Text alone against text beside others: cell by cell, and by the law of effective data.

    Raises:
      TooFewRuns: fewer than two runs of a mixture, or than the law needs.
    """
    changed = changes(path)
    if not changed or min(count for count, *_ in changed.values()) < 2:
        few = ", ".join(f"{name} x {times}" for (name, times), (count, *_) in changed.items() if count < 2)
        raise TooFewRuns(f"{path}: fewer than two runs of text beside {few or 'others'}; let the grid go on")
    runs = scaling_laws.beside(path)
    law = laws.effective_data(MODALITIES)
    found = fit(law, runs, delta=math.inf)
    thetas = residual_bootstrap(found, draws)
    worth = {}
    for index, name in enumerate(MODALITIES[1:], start=5):
        worth[name] = (float(found.theta[index]), *percentiles(thetas[:, index : index + 1])[0])
    middle = float(np.exp(np.log(runs.parameters).mean())), float(np.exp(np.log(runs.tokens[:, 0]).mean()))
    sizes = {count: smaller(law, found.theta, thetas, *middle, count) for count in times}
    return Edge(changed, worth, sizes)


def changes(path: os.PathLike | str) -> dict[tuple[str, int], tuple[int, float, float, float]]:
    """Of `Edge`: mixtures of text against text alone, by what stands beside it."""
    names = ("parameters", "text_bits_per_byte", "seed", *scaling_laws.TOKENS)
    table = read_columns(path, names, only={"text_tokenizer": next(iter(VOCABULARIES["text"]))})
    keys = np.stack([table["parameters"], table["text_tokens"], table["seed"]], 1)
    others = np.stack([table[name] for name in scaling_laws.TOKENS[1:]], 1)
    single = ~others.any(1)
    losses = table["text_bits_per_byte"]
    of = {tuple(key): loss for key, loss in zip(keys[single], losses[single], strict=True)}
    found: dict[tuple[str, int], list[float]] = {}
    for key, own, loss in zip(keys[~single], others[~single], losses[~single], strict=True):
        if tuple(key) in of:
            beside = " + ".join(name for name, count in zip(MODALITIES[1:], own, strict=True) if count)
            found.setdefault((beside, round(own.max() / key[1])), []).append(loss - of[tuple(key)])
    level, own = 1 - 0.05 / max(1, len(found)), sorted(found.items())
    return {key: (len(each), float(np.mean(each)), *student(each, level)) for key, each in own}


def smaller(law, theta, thetas, parameters: float, tokens: float, times: float) -> tuple[float, float, float]:
    """Of `Edge`: parameters with `times` as many tokens of each other modality, over those of text alone."""
    others = len(law.names) - 5
    row = np.array([[tokens, *[times * tokens] * others]])
    alone = make_runs([parameters], [[tokens, *[0.0] * others]])

    def ratio(one):
        loss = float(law.predict(one, alone)[0])
        return float(parameters_for(law, one, loss, row)[0] / parameters)

    drawn = np.array([ratio(one) for one in thetas])
    drawn = drawn[np.isfinite(drawn)]
    around = percentiles(drawn[:, None])[0] if len(drawn) > len(thetas) / 2 else (math.nan, math.nan)
    return ratio(theta), *around


def told(path: os.PathLike | str) -> list[str]:
    """Lines about all questions; and of those for which there are too few rows yet, why."""
    titles = {"Only T / C counts of a tokenizer": collapse, "A corpus that is split in two by name": split}
    lines = []
    for title, question in titles.items():
        asked = {name: lambda name=name, question=question: question(path, name) for name in MODALITIES}
        found, why = scaling_laws.ask_all(asked)
        lines += [title, *(f"  {one.verdict}" for one in found.values())]
        lines += [f"  {name}: too few rows yet ({reason})" for name, reason in why.items()]
    found, why = scaling_laws.ask_all({"edge": lambda: edge(path)})
    about = about_edge(found["edge"]) if found else [f"too few rows yet ({why['edge']})"]
    return [*lines, "More of another modality for a smaller model", *(f"  {line}" for line in about)]


def about_edge(found: Edge) -> list[str]:
    """Lines: the verdict, and what it rests on."""
    lines = [found.verdict]
    for (name, times), (count, mean, low, high) in found.changes.items():
        change = f"{mean:+.4f} [{low:+.4f}, {high:+.4f}] bits a byte"
        lines.append(f"text beside {name} x {times}: {change}, {count} runs")
    for name, (value, low, high) in found.worth.items():
        lines.append(f"a token of {name} is worth {value:.3f} [{low:.3f}, {high:.3f}] of text")
    for times, (value, low, high) in found.smaller.items():
        lines.append(f"P for the same loss with x {times} of each: {value:.2f} [{low:.2f}, {high:.2f}]")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--csv", default=str(CSV), help="of experiments/scaling.py")
    chosen = parser.parse_args()
    try:
        print("\n".join(told(chosen.csv)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
