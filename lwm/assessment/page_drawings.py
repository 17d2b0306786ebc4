"""What a DreamLLM draws for held-out texts, looked at by a judge that had no part in it.

The judge (`evaluation/picture_judge.py`) answers the closed questions of the data folder, in the miniature
those of "questions", about each picture; what is right is the answer for the picture that the text has in the
data. Its own share of right answers about those is told as well. It is no upper bound: drawn pictures may be
easier for the judge than real ones (in the miniature it was right about 82 % of the colours of real pictures,
and about 93 % of those that the decoder had drawn).

FD-cls is the Fréchet distance of its features from those of the held-out pictures, beside the distance of as
many pictures of training of the same kinds. That is no lower bound: the judge has learned from the latter, so
its features of them differ from those of pictures that are new to it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from lwm.assessment.page_documents import Choice, Wish, choices_of, picture_key, pictures_of
from lwm.data.tokenizers import Tokenizer
from lwm.evaluation.creation import conditional_accuracy, fd_cls
from lwm.evaluation.picture_judge import FEATURES, Judge, train_judge
from lwm.evaluation.task_scores import Score
from lwm.generation.dreams import Drawing, draw
from lwm.models.dreamllm import DreamLLM

GUIDANCES = (1.0, 2.0, 5.0)
STEPS = 25  # of the sampler
_ROWS, _LEAST = 32, 2 * FEATURES  # pictures: drawn together, and fewest for a distance
Scored = tuple[str, Score, float | None, str | None, int]  # of what, score, baseline and its name, n


class Court(NamedTuple):
    """A trained judge, the closed questions, and of the pictures of training features_NF and answers.

    answers: {question: int [N]}, numbers of answers; -1 = there is none.
    """

    judge: Judge
    choices: dict[str, Choice]
    features_NF: np.ndarray
    answers: dict[str, np.ndarray]


def open_court(data: str, known: Mapping[str, Any], tokenizer: Tokenizer, seed: int = 0) -> Court | None:
    """A judge trained on all training pictures of a data folder; None if nothing closed is asked in it."""
    choices = choices_of(data, known, tokenizer)
    if not choices:
        return None
    pictures = pictures_of(data, known, "train")
    answers = {asked: _numbers(choice, pictures) for asked, choice in choices.items()}
    judge = train_judge(pictures, answers, seed=seed)
    return Court(judge, choices, judge.features(pictures), answers)


def real_scores(court: Court, pictures_NRRC: np.ndarray) -> Iterator[Scored]:
    """Yields how often the judge is right about real held-out pictures, beside the commonest answer."""
    for asked, choice in court.choices.items():
        yield from _accuracy(court, asked, choice, pictures_NRRC, pictures_NRRC)


def drawing_scores(court: Court, drawn_NRRC: np.ndarray, real_NRRC: np.ndarray) -> Iterator[Scored]:
    """Yields the scores of pictures drawn for the texts of the real ones, row by row."""
    for asked, choice in court.choices.items():
        yield from _accuracy(court, asked, choice, drawn_NRRC, real_NRRC)
    if len(real_NRRC) >= _LEAST:
        real_NF = court.judge.features(real_NRRC)
        usual = fd_cls(court.features_NF[alike(court, real_NRRC)], real_NF).value
        score = fd_cls(court.judge.features(drawn_NRRC), real_NF)
        yield "", score, usual, "pictures of training of the same kinds", len(real_NF)


def alike(court: Court, real_NRRC: np.ndarray, seed: int = 0) -> np.ndarray:
    """For each picture the number of one of training, int [N], as much like it as can be said in answers.

    It has the same answer to the first closed question that the picture has an answer to, and is drawn by lot
    from those that were taken least often: no two pictures have the same one while there are others. Where
    nothing has that answer, or there is none, all pictures of training are in the lot.
    """
    rng, everything = np.random.default_rng(seed), np.ones(len(court.features_NF), bool)
    wanted = {asked: _numbers(choice, real_NRRC) for asked, choice in court.choices.items()}
    taken, chosen = np.zeros(len(everything), int), []
    for row in range(len(real_NRRC)):
        asked = next((asked for asked, own_N in wanted.items() if own_N[row] >= 0), None)
        same = everything if asked is None else court.answers[asked] == wanted[asked][row]
        same = same if same.any() else everything
        chosen.append(rng.choice(np.flatnonzero(same & (taken == taken[same].min()))))
        taken[chosen[-1]] += 1
    return np.array(chosen)


def drawn(
    model: DreamLLM,
    params: dict,
    wishes: Sequence[Wish],
    *,
    bos: int,
    guidance: float,
    seed: int,
    by_text_encoder: bool = False,
) -> np.ndarray:
    """Pictures uint8 [N, R, R, 3] for the texts, through the dream queries or the decoder's own encoder."""
    found, key = [], jax.random.key(seed)
    for start in range(0, len(wishes), _ROWS):
        some = [wish.text for wish in wishes[start : start + _ROWS]]
        filled, own_key = some + [some[-1]] * (_ROWS - len(some)), jax.random.fold_in(key, start)
        if by_text_encoder:
            pictures = _by_text_encoder(model, params, filled, own_key, bos, guidance)
        else:
            pictures = draw(model, params, filled, own_key, bos=bos, drawing=Drawing(STEPS, guidance))
        found.append(np.asarray(pictures)[: len(some)])
    return np.concatenate(found)


def _by_text_encoder(model, params, texts, key, bos, guidance):
    decoder, own = model.decoder, params["decoder"]
    ids_BS = np.zeros((len(texts), model.config.decoder.text_length), np.int32)
    for row, ids in zip(ids_BS, texts, strict=True):
        ids = [bos, *ids][: len(row)]
        row[: len(ids)] = ids
    empty_BS = np.where(np.arange(ids_BS.shape[1]) > 0, 0, ids_BS)  # a caption of no words, as in training
    without = decoder.condition(own, jax.numpy.asarray(empty_BS), jax.numpy.asarray(empty_BS))
    how = {"steps": STEPS, "guidance": guidance, "segments_BS": jax.numpy.asarray(ids_BS)}
    return decoder.sample(own, jax.numpy.asarray(ids_BS), key, unconditional=without, **how)


def _accuracy(court, asked, choice, seen_NRRC, real_NRRC) -> Iterator[Scored]:
    wanted_N = _numbers(choice, real_NRRC)
    there_N = wanted_N >= 0
    if not there_N.any():
        return
    found_N, wanted_N = court.judge.answers(seen_NRRC)[asked][there_N], wanted_N[there_N]
    yield (
        asked,
        conditional_accuracy(found_N, wanted_N),
        *_usual(court.answers[asked], wanted_N),
        len(wanted_N),
    )


def _usual(train_N: np.ndarray, wanted_N: np.ndarray) -> tuple[float, str]:
    """How often the commonest answer of training is right, or chance if it is never asked for."""
    commonest = np.argmax(np.bincount(train_N[train_N >= 0]))
    if commonest in wanted_N:
        return float(np.mean(wanted_N == commonest)), "commonest answer"
    return 1 / len(np.unique(wanted_N)), "chance among those asked for"


def _numbers(choice: Choice, pictures_NRRC: np.ndarray) -> np.ndarray:
    return np.array([choice.of.get(picture_key(picture), -1) for picture in pictures_NRRC])
