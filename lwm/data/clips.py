"""Clips with odd frames in them, and three questions: what is put where, and who could know the answer.

A clip is N frames on from a random frame of one scene; one or a few of them are replaced by frames of other
scenes. Who sees every frame can know the answer; who is shown a few at even distances, as short-context
models are, can know it only if the frames in question are among them. `chance` and `ideal` say how often.

Scenes are known here by their lengths alone: whoever asks has the frames, as pixels or as codes.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lwm.errors import UserError

PARTS = 8  # parts that the odd frame is asked to be in, and frames that a short context is shown
MOST = 4  # odd frames that there are to count
SCENES = 3  # that a clip is made of, at most
TASKS = {
    "odd": "One frame of this video does not belong. In which eighth of the video is it, from 1 to 8?",
    "count": f"How many frames of this video do not belong, from 1 to {MOST}?",
    "order": "Two frames of this video do not belong; after the video both are shown again. "
    "Which of them came first, 1 or 2?",
}
AGAIN = {"odd": 0, "count": 0, "order": 2}  # frames shown after the video

# A frame is known by (clip << FRAME_BITS) + number in an int32, both from 1; number 0 is "none yet".
FRAME_BITS = 16
MOST_FRAMES = (1 << FRAME_BITS) - 1 - max(AGAIN.values())
MOST_QUESTIONS = (1 << 31 - FRAME_BITS) - 1


class Composition(NamedTuple):
    """Frames as (scene, place in it).

    frames: int [N, 2] in order · again: those shown after the video, int [R, 2] · answer: a digit.
    """

    frames: np.ndarray
    again: np.ndarray
    answer: str


def compose(name: str, lengths: Sequence[int], count: int, seed: int | str) -> Composition:
    """A clip of `count` frames of one scene with odd frames of others put in, and the answer about it.

    name: of TASKS. lengths: of the scenes, at least SCENES of them; one shorter than the clip starts again.
    """
    rng = random.Random(f"{name} {seed} {count}")
    base, *others = rng.sample(range(len(lengths)), SCENES)
    start = rng.randrange(lengths[base])
    frames = np.stack([np.full(count, base), (start + np.arange(count)) % lengths[base]], axis=1)
    odd = rng.randint(1, MOST) if name == "count" else 2 if name == "order" else 1
    places = rng.sample(range(count), odd)
    if name == "order":
        # A frame of each of the two other scenes; shown again in the order of `others`.
        again = np.array([(scene, rng.randrange(lengths[scene])) for scene in others])
        frames[places] = again
        return Composition(frames, again, "1" if places[0] < places[1] else "2")
    for place in places:
        frames[place] = others[0], rng.randrange(lengths[others[0]])
    answer = odd if name == "count" else places[0] * PARTS // count + 1
    return Composition(frames, frames[:0], str(answer))


def even_places(count: int, shown: int) -> np.ndarray:
    """The middles of `shown` equal parts of `count` frames, int [shown]; all places if `shown` is `count`."""
    return (2 * np.arange(shown) + 1) * count // (2 * shown)


def chance(name: str) -> float:
    """Share of a guess that looks at nothing."""
    return {"odd": 1 / PARTS, "count": 1 / MOST, "order": 1 / 2}[name]


def ideal(name: str, count: int, shown: int) -> float:
    """Share of whoever sees `shown` of `count` frames in equal distances perfectly and guesses best.

    odd: known if it is shown, else guessed to be where most is hidden. count: the likeliest number, given how
    many odd frames are among those shown. order: known if both are shown; if one is, the other is more likely
    on its longer side.
    """
    if shown == count:
        return 1.0
    places = even_places(count, shown)
    if name == "odd":
        eighths = np.arange(count) * PARTS // count
        hidden = np.bincount(np.delete(eighths, places), minlength=PARTS)
        return float(shown + hidden.max()) / count
    if name == "count":
        ways = math.comb(count, shown)
        seen = [
            [math.comb(odd, s) * math.comb(count - odd, shown - s) / ways for s in range(min(odd, shown) + 1)]
            for odd in range(1, MOST + 1)
        ]
        return sum(max(row[s] for row in seen if s < len(row)) for s in range(min(MOST, shown) + 1)) / MOST
    hidden = count - shown
    before = places - np.arange(shown)  # hidden frames before each frame that is shown
    both = shown * (shown - 1) / (count * (count - 1))
    neither = hidden * (hidden - 1) / (count * (count - 1))
    one = 2 * np.maximum(before, hidden - before).sum() / (count * (count - 1))
    return float(both + neither / 2 + one)


def frames_of_row(
    mixture: Mapping[str, float], frames: int, shown: int, questions: int, ring: int = 1
) -> int:
    """Frames beside a row of text, filled up to a multiple of the devices on "seq"; see `check_clips`."""
    again = max(AGAIN[name] for name, weight in mixture.items() if weight)
    return -(-questions * ((shown or frames) + again) // ring) * ring


def check_clips(mixture: Mapping[str, float], frames: int, shown: int, questions: int) -> None:
    """Checks what rows of questions are to be made of.

    mixture: share of the questions by name. frames: of a clip. shown: of those, 0 = all. questions: in a row.

    Raises:
      UserError: naming the argument, its value and the fix.
    """
    asked = [name for name, weight in mixture.items() if weight]
    if unknown := [name for name in asked if name not in TASKS]:
        raise UserError(f"mixture: there is no question {unknown[0]!r}; choose from {', '.join(TASKS)}")
    if not asked or not all(0 <= weight < math.inf for weight in mixture.values()):
        raise UserError(f"mixture: {dict(mixture)} asks nothing; write for example {{'odd': 1.0}}")
    if "odd" in asked and (frames % PARTS or frames <= PARTS):
        raise UserError(f"frames: {frames} is not a multiple of {PARTS} above it; use for example 64")
    if not MOST < frames <= MOST_FRAMES:
        raise UserError(f"frames: {frames} make no clip; use more than {MOST} and at most {MOST_FRAMES}")
    if not 0 <= shown <= frames:
        raise UserError(f"shown: {shown} of {frames} frames; use 1 to {frames}, or 0 for all")
    if not 1 <= questions <= MOST_QUESTIONS:
        raise UserError(f"questions: {questions} in a row; use 1 to {MOST_QUESTIONS}")
