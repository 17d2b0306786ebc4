"""What held-out errors say of a claim, in a word and a sentence, by rules that stand before runs are seen.

The law of a claim is set beside a rival on runs that neither has seen. MARGIN is the largest ratio of their
errors that counts as none, 1.25 as in studies of equivalence. By the interval of the ratio:

    CONFIRMED  surely below the margin, and its errors do not lean to one side
    REFUTED    surely above 1, and not surely below the margin
    BOUNDED    all else: as good, but leaning; worse, but surely by less than the margin; or the runs tell no
               more than the interval

So a claim is not confirmed for want of runs, nor refuted by a difference that does not matter.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lwm.scaling.comparison import error_ratio, judge_together
from lwm.scaling.fitting import Fit
from lwm.scaling.runs_table import Runs

MARGIN = 1.25
WORDS = ("CONFIRMED", "BOUNDED", "REFUTED")


class Verdict(NamedTuple):
    """word: of WORDS. sentence: with it and the numbers it rests on. ratio, low, high: of held-out errors."""

    word: str
    sentence: str
    ratio: float
    low: float
    high: float


def compare(
    claim: Sequence[tuple[Fit, Runs]],
    rival: Sequence[tuple[Fit, Runs]],
    *,
    unit: str = "bits a byte",
    draws: int = 200,
) -> Verdict:
    """The verdict on a claim: fits of its law, one or one for each part, and runs that they have not seen.

    Raises:
      TooFewRuns: no held-out runs, or too few for the criteria of the claim's fits.
    """
    ratio, (low, high) = error_ratio(claim, rival, draws=draws)
    judged = judge_together("", claim, draws=draws)
    bias, ends = judged.held_out_bias, judged.held_out_bias_interval
    leans = ends[0] * ends[1] > 0
    word = word_of(low, high, leans)
    about = f"its held-out error is {ratio:.2f} [{low:.2f}, {high:.2f}] times that of {rival[0][0].law.name}"
    if leans:
        promise, sizes = "too little" if bias < 0 else "too much", sorted(map(abs, ends))
        amount = f"{abs(bias):.3f} [{sizes[0]:.3f}, {sizes[1]:.3f}] {unit}"
        about += f", and it foretells {promise} loss, by {amount}"
    if word == "BOUNDED":
        about += "; " + _reason(low, high)
    return Verdict(word, f"{word}: {about}", ratio, low, high)


def word_of(low: float, high: float, leans: bool) -> str:
    """The rule. low, high: of the interval of the ratio. leans: whether that of the bias leaves out 0."""
    if high < MARGIN and low <= 1 and not leans:
        return "CONFIRMED"
    return "REFUTED" if low > 1 and high >= MARGIN else "BOUNDED"


def overall(verdicts: Mapping[str, Verdict], unasked: Sequence[str] = ()) -> str:
    """One sentence on a claim that was asked in several places: all have to agree, or it is bounded by where.

    unasked: places of which nothing is known yet.
    """
    places = {word: [where for where, one in verdicts.items() if one.word == word] for word in WORDS}
    told = {word: ", ".join(own) for word, own in places.items() if own}
    if not told:
        said = "NOT ASKED"
    elif len(told) == 1 and "BOUNDED" not in told:
        said = " in all places: ".join(*told.items())
    else:
        means = {"CONFIRMED": "holds", "BOUNDED": "holds in part, or is open", "REFUTED": "fails"}
        said = "BOUNDED: it " + "; it ".join(f"{means[word]} for {own}" for word, own in told.items())
    return said + (f". Too few rows yet: {', '.join(unasked)}" if unasked else "")


def _reason(low: float, high: float) -> str:
    if low > 1:
        return f"worse, but by less than a factor of {MARGIN}"
    if high < MARGIN:
        return "as good as the other, but its errors lean"
    return "these runs tell no more than that interval"
