"""Two modalities in one model: what laws say of their mean loss, and whether they compete.

Question  Does a second modality make the mean of both losses worse or better? Which law foretells it?
Paper     2301.03728 (mixed-modal), 2409.06754 (the hypothesis), 2102.01293 (effective data).
Command   python -m experiments.scaling_mixtures --csv=experiments/results/scaling.csv
Hardware  one CPU core, a minute.
Expected  at this size modalities compete: the published barrier is at billions of parameters.

The loss is the mean of the bits a raw byte of both. A pair has a dozen runs, so only those of its largest P
are held out, and the laws of single modalities see no run alone of that size either. The interaction itself
needs no law: the same models were trained on the same tokens alone.
"""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments import scaling_laws
from experiments.scaling_data import VOCABULARIES
from experiments.scaling_laws import MODALITIES, alone
from lwm.evaluation.intervals import student
from lwm.scaling import laws
from lwm.scaling.comparison import Judgement, judge, judge_drawn, table
from lwm.scaling.fitting import Fit, fit
from lwm.scaling.resampling import residual_bootstrap
from lwm.scaling.runs_table import Runs, make_runs, read_columns
from lwm.scaling.verdicts import Verdict, compare


class Pair(NamedTuple):
    """Runs of two modalities.

    both: runs with the loss of each as its target, in the order of `names`; mean: with that of their mean.
    """

    names: tuple[str, str]
    both: tuple[Runs, Runs]
    mean: Runs


class Mixture(NamedTuple):
    """What is known of a pair.

    Attributes:
      interaction: mean over its runs of (mean loss of both together - of both alone), bits a raw byte, with
        Student's interval: below 0 they help each other. cells: of how many runs.
      values: parameters of the mixed-modal law; C is its synergy.
      verdict: on the hypothesis, one slope, beside the mixed-modal law.
    """

    names: tuple[str, str]
    fitted: int
    held_out: int
    judgements: list[Judgement]
    verdict: Verdict
    values: dict[str, float]
    interaction: float
    low: float
    high: float
    cells: int

    @property
    def said(self) -> str:
        word = "open"
        if self.low > 0 or self.high < 0:
            word = "competition" if self.low > 0 else "synergy"
        change = f"{self.interaction:+.4f} [{self.low:+.4f}, {self.high:+.4f}] bits a byte"
        return f"{' + '.join(self.names)}: {word}, the mean loss changes by {change} ({self.cells} runs)"


def pair(path: os.PathLike | str, other: str, target: str = "text") -> Pair:
    """The runs of two modalities, each by its first tokenizer, without a third.

    Raises:
      TooFewRuns: there are none.
    """
    names = (target, other)
    only = {f"{name}_tokenizer": next(iter(VOCABULARIES[name])) for name in names}
    only |= {f"{name}_tokens": "0" for name in MODALITIES if name not in names}
    losses, counts = ([f"{name}_{what}" for name in names] for what in ("bits_per_byte", "tokens"))
    columns = read_columns(path, ("parameters", *losses, *counts), only=only)
    tokens = np.stack([columns[name] for name in counts], 1)
    size = columns["parameters"]
    runs = [make_runs(size, tokens, columns[name], target=i) for i, name in enumerate(losses)]
    mean = make_runs(size, tokens, (runs[0].loss + runs[1].loss) / 2)
    return Pair(names, tuple(runs), mean)


def interaction(path: os.PathLike | str, own: Pair) -> list[float]:
    """Mean loss of both together less that of both alone, of every run whose like was trained alone, too."""
    means = []
    for name in own.names:
        runs = alone(path, name)
        keys = np.stack([runs.parameters, runs.tokens[:, 0]], 1)
        means.append({tuple(key): runs.loss[(keys == key).all(1)].mean() for key in keys})
    found = []
    for size, tokens, loss in zip(own.mean.parameters, own.mean.tokens, own.mean.loss, strict=True):
        each = [of.get((size, count)) for of, count in zip(means, tokens, strict=True)]
        if None not in each:
            found.append(float(loss - np.mean(each)))
    return found


def mixture(path: os.PathLike | str, other: str, draws: int = 200, target: str = "text") -> Mixture:
    """All that is said of a pair.

    Raises:
      TooFewRuns: fewer runs below its largest size than the mixed-modal law needs.
    """
    own = pair(path, other, target)
    seen = own.mean.parameters < (1 - 1e-6) * own.mean.parameters.max()
    singles = [alone(path, name) for name in own.names]
    singles = [runs.take(runs.parameters < (1 - 1e-6) * own.mean.parameters.max()) for runs in singles]
    apart = [fit(laws.chinchilla(), runs, delta=math.inf) for runs in singles]
    mixed_modal = laws.mixed_modal(*(found.theta for found in apart))
    unseen = own.mean.take(~seen)
    asked = {
        law.name: [(fit(law, own.mean.take(seen), delta=math.inf), unseen)]
        for law in [mixed_modal, *scaling_laws.hypotheses(own.names)]
    }
    judgements = [judge(*parts[0], draws=draws) for parts in asked.values()]
    judgements.append(averaged("Chinchilla of each alone, no interaction", apart, own, seen, draws))
    worth = [
        fit(laws.effective_data(own.names, target=i), _joined(runs, part.take(seen)), delta=math.inf)
        for i, (runs, part) in enumerate(zip(singles, own.both, strict=True))
    ]
    judgements.append(averaged("effective data of each, averaged", worth, own, seen, draws))
    claim = scaling_laws.best(asked, "hypothesis, one")
    verdict = compare(asked[claim], asked[mixed_modal.name], draws=draws)
    changes = interaction(path, own)
    around = student(changes) if changes else (math.nan, math.nan)
    return Mixture(
        own.names,
        int(seen.sum()),
        unseen.size,
        judgements,
        verdict,
        asked[mixed_modal.name][0][0].values,
        float(np.mean(changes)) if changes else math.nan,
        *around,
        len(changes),
    )


def averaged(
    name: str, fits: Sequence[Fit], own: Pair, seen: np.ndarray, draws: int, seed: int = 0
) -> Judgement:
    """The mean of what a law of each modality says, fitted to other runs, too: it has no AICc here."""
    inside, outside = own.mean.take(seen), own.mean.take(~seen)

    def mean(thetas, rows):
        each = zip(fits, thetas, own.both, strict=True)
        return np.mean([found.law.predict(theta, part.take(rows)) for found, theta, part in each], axis=0)

    best = [found.theta for found in fits]
    drawn = [residual_bootstrap(found, draws, seed=seed + i) for i, found in enumerate(fits)]
    errors = np.array([mean(thetas, ~seen) for thetas in zip(*drawn, strict=True)]) - outside.loss
    rows = np.random.default_rng(seed).integers(outside.size, size=errors.shape)
    errors = np.take_along_axis(errors, rows, axis=1)
    count = sum(len(found.theta) for found in fits)
    losses = (mean(best, seen), inside.loss), (mean(best, ~seen), outside.loss)
    return judge_drawn(name, count, math.nan, *losses, errors)


def _joined(single: Runs, part: Runs) -> Runs:
    """Runs alone and in the pair, as runs of two modalities."""
    tokens = np.zeros((single.size, 2))
    tokens[:, part.target] = single.tokens[:, 0]
    return make_runs(
        np.concatenate([single.parameters, part.parameters]),
        np.concatenate([tokens, part.tokens]),
        np.concatenate([single.loss, part.loss]),
        target=part.target,
    )


def mixtures(path: os.PathLike | str, draws: int = 200) -> tuple[dict[str, Mixture], dict[str, str]]:
    """Text beside each other modality by its name; and why others are not there yet."""
    return scaling_laws.ask_all(
        {name: lambda name=name: mixture(path, name, draws) for name in MODALITIES[1:]}
    )


def told(one: Mixture) -> list[str]:
    """Lines about a pair."""
    lines = [f"\n**{' + '.join(one.names)}**: {one.fitted} runs fitted, {one.held_out} held out\n"]
    values = ", ".join(f"{name} {value:.3g}" for name, value in one.values.items())
    lines += [table(one.judgements), f"\nThe mixed-modal law: {values}."]
    return lines + [f"The hypothesis, one slope: {one.verdict.sentence}.", f"{one.said}."]


def lines(path: os.PathLike | str, draws: int) -> list[str]:
    """All that is said of pairs."""
    found, why = mixtures(path, draws)
    said = [line for one in found.values() for line in told(one)]
    return said + [f"\n**text + {name}**: too few rows yet ({reason})" for name, reason in why.items()]


def main() -> None:
    scaling_laws.print_answers(__doc__, lines)


if __name__ == "__main__":
    main()
