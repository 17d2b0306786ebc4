"""What a DreamLLM says about held-out pictures, and where in held-out documents it opens a dream.

Sources that its stage has in the form "comprehension" or "pairs" ask questions (`page_documents.py`): the
answers are written greedily and, word by word, read. In those of the form "joint" it reads the documents and
is asked at each learned token whether a picture follows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lwm.assessment.page_documents import CLOSED, Question, questions_of, spread, texts_of
from lwm.data.interleaved_pieces import Marks, Piece, pieces_of
from lwm.data.interleaved_records import PageRecord
from lwm.data.interleaved_rows import Room, page_row
from lwm.data.tokenizers import Tokenizer
from lwm.evaluation import task_baselines, text_scores
from lwm.evaluation.intervals import bootstrap, wilson
from lwm.evaluation.page_scores import Opened, placement_f1, words_f1
from lwm.evaluation.task_scores import Score
from lwm.generation.dream_answers import answer
from lwm.models.dreamllm import DreamLLM

_ROWS = 32  # read or answered together
_UNIT = 64  # lengths of rows are multiples of it
Scored = tuple[str, Score, float | None, str | None, int]  # asked, score, baseline and its name, n


class Reader:
    """Reads documents with the right tokens before each token, as training does."""

    def __init__(self, model: DreamLLM, params: dict, tokenizer: Tokenizer, context_length: int):
        config = model.config
        self.marks = Marks.of(tokenizer, config.queries, config.vision.patches)
        self._model, self._params, self._slots = model, params, context_length
        self._read = jax.jit(self._judged)

    def pieces(self, page: PageRecord, form: str) -> list[Piece]:
        """Those of a document that fit a row."""
        return pieces_of(page, form, self.marks, slots=self._slots, images=max(len(page.images), 1))

    def read(self, pieces: Sequence[Piece]) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
        """Yields of each piece its row, nll_T and likeliest_T, in order."""
        slots = max(piece.example.slots for piece in pieces)
        count = max(len(piece.images) for piece in pieces)
        room = Room(-(-slots // _UNIT) * _UNIT, spare=0, images=count, frames=max(count, 1))
        side = self._model.config.vision.resolution
        for start in range(0, len(pieces), _ROWS):
            own = [page_row([piece], self.marks, room, side) for piece in pieces[start : start + _ROWS]]
            filled = own + [own[-1]] * (_ROWS - len(own))
            batch = {name: np.stack([row[name] for row in filled]) for name in filled[0]}
            nll_BT, likeliest_BT = jax.device_get(self._read(self._params, batch))
            yield from zip(own, nll_BT, likeliest_BT, strict=False)

    def _judged(self, params, batch):
        logits_BTV = self._model.logits(params, batch)
        logs_BTV = jax.nn.log_softmax(logits_BTV)
        nll_BT = -jnp.take_along_axis(logs_BTV, batch["targets"][..., None], axis=-1)[..., 0]
        return nll_BT, jnp.argmax(logits_BTV, axis=-1)


def question_scores(
    reader: Reader,
    model: DreamLLM,
    params: dict,
    tokenizer: Tokenizer,
    records: dict[str, Sequence[PageRecord]],
    form: str,
    samples: int,
) -> Iterator[Scored]:
    """Yields the scores of each question of a source.

    Closed ones have accuracy; open ones exact_match, chrf and words_f1; all nats, of a token of the right
    answer, the end of the document among them.

    Args:
        records: {"train", "heldout"} of the source.
        samples: of each question, at most; 0 = all.
    """
    known = _by_question(questions_of(records["train"], form, tokenizer))
    for asked, own in _by_question(questions_of(records["heldout"], form, tokenizer)).items():
        own = spread(own, samples)
        wanted, train = [one.answer for one in own], [one.answer for one in known.get(asked, own)]
        found = _written(model, params, tokenizer, own, max(map(len, map(tokenizer.encode, train))) + 1)
        n, commonest = len(own), Counter(train).most_common(1)[0][0]
        right = round(text_scores.exact_match(found, wanted) * n)
        baseline = text_scores.exact_match([commonest] * n, wanted)
        closed = asked and len(set(train)) <= CLOSED
        score = Score("accuracy" if closed else "exact_match", right / n, *wilson(right, n))
        yield asked, score, baseline, "commonest answer", n
        if not closed:
            baselines = dict(task_baselines.text_baselines(train, wanted))
            score = Score("chrf", text_scores.chrf(found, wanted))
            yield asked, score, baselines["commonest_chrf"], "commonest answer", n
            usual = words_f1([commonest] * n, wanted).value
            yield asked, words_f1(found, wanted), usual, "commonest answer", n
        yield asked, _nats(reader, own), None, None, n


def document_scores(reader: Reader, records: Sequence[PageRecord], samples: int) -> Iterator[Scored]:
    """Yields the scores of documents of text and pictures; none where there is nothing of their kind.

    placement_f1, of where dreams are opened: where <dream_start> is likelier than all else that may follow;
    nats, of a token of the texts, beside those that the frequencies of the same tokens would give.

    Args:
        samples: documents, at most; 0 = all.
    """
    chosen = spread(range(len(records)), samples)
    pieces = [piece for at in chosen for piece in reader.pieces(records[at], "joint")]
    found, texts, sums = [], [], []
    for row, nll_T, likeliest_T in reader.read(pieces) if pieces else ():
        learned_T, start = row["weights"] > 0, reader.marks.dream_start
        opened_T, wanted_T = learned_T & (likeliest_T == start), learned_T & (row["targets"] == start)
        found.append([int(np.sum(own)) for own in (opened_T & wanted_T, opened_T, wanted_T)])
        texts.append(row["targets"][learned_T & ~wanted_T])
        sums.append(float(np.sum(nll_T, where=learned_T & ~wanted_T)))
    opened = Opened(*np.asarray(found, int).reshape(-1, 3).T)
    if opened.wanted_B.sum():
        yield "", placement_f1(opened), None, None, len(chosen)
    if any(map(len, texts)):
        score = _nats_of(sums, list(map(len, texts)))
        usual = task_baselines.unigram_nats(texts, texts, reader.marks.dream_start)
        yield "", score, usual, "unigram of the same tokens", len(chosen)


def _nats(reader: Reader, own: Sequence[Question]) -> Score:
    sums, counts = [], []
    for row, nll_T, _ in reader.read([reader.pieces(one.page, "comprehension")[-1] for one in own]):
        sums.append(float(np.sum(nll_T, where=row["weights"] > 0)))
        counts.append(int(np.sum(row["weights"] > 0)))
    return _nats_of(sums, counts)


def _nats_of(sums: Sequence[float], counts: Sequence[int]) -> Score:
    """The mean over all tokens, with its interval over documents."""
    return Score("nats", sum(sums) / sum(counts), *bootstrap(sums, counts))


def _written(model, params, tokenizer, own: Sequence[Question], new_tokens: int) -> list[str]:
    """The texts that are answered; prompts with equally many pictures go together."""
    found: dict[int, str] = {}
    by_count: dict[int, list[int]] = {}
    for at, one in enumerate(own):
        by_count.setdefault(len(one.page.images), []).append(at)
    about: dict[str, Any] = {"bos": tokenizer.bos, "eos": tokenizer.eos, "new_tokens": new_tokens}
    for places in by_count.values():
        for start in range(0, len(places), _ROWS):
            some = places[start : start + _ROWS]
            prompts = [_parts(own[at].page) for at in some]
            filled = prompts + [prompts[-1]] * (_ROWS - len(prompts))
            said = answer(model, params, filled, **about)
            found |= {at: tokenizer.decode(ids).strip() for at, ids in zip(some, said, strict=False)}
    return [found[at] for at in range(len(own))]


def _parts(page: PageRecord) -> list:
    """The document up to its last text."""
    texts, parts = texts_of(page), []
    for number, ids in enumerate(texts):
        own = [image for image, at in zip(page.images, page.positions, strict=True) if at == number]
        parts += [*own, *([ids.tolist()] if number < len(texts) - 1 else [])]
    return parts


def _by_question(questions: Iterator[Question]) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {}
    for one in questions:
        found.setdefault(one.asked, []).append(one)
    return found
