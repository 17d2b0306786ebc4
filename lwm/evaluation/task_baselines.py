"""What can be scored on a task without looking at the question: what a model has to beat."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lwm.evaluation.text_scores import accuracy, bleu, character_error_rate, chrf, exact_match


def label_baselines(train: Sequence[str], heldout: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yields the accuracy of the commonest label and, in nats, that of the labels' frequencies.

    The frequencies are those of training with one added to each label (Laplace), held out ones included.
    """
    counts = Counter(train)
    yield "majority_accuracy", accuracy([_commonest(train)] * len(heldout), heldout)
    total = len(train) + len({*train, *heldout})
    yield "frequency_nats", float(-np.mean([np.log((counts[label] + 1) / total) for label in heldout]))


def text_baselines(train: Sequence[str], heldout: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yields scores of the empty answer and of the commonest answer in training."""
    yield "empty_error_rate", character_error_rate([""] * len(heldout), heldout)
    yield from _scores("commonest", [_commonest(train)] * len(heldout), heldout)


def copy_baselines(sources: Sequence[str], targets: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yields scores of the answer that repeats the question."""
    yield from _scores("copy", sources, targets)


def unigram_nats(train: Sequence[Sequence[int]], heldout: Sequence[Sequence[int]], vocab_size: int) -> float:
    """Nats a token of held-out ids by how often each came in training, one added to each (Laplace)."""
    seen, held = (np.concatenate([np.asarray(ids, np.int64) for ids in texts]) for texts in (train, heldout))
    counts = np.bincount(seen, minlength=vocab_size) + 1
    return float(-np.log(counts[held] / counts.sum()).mean())


def unigram_words_right(train: Sequence[Sequence[int]], heldout: Sequence[Sequence[int]]) -> float:
    """Share of held-out ids that are the commonest one of training."""
    counts = Counter(item for ids in train for item in ids)
    commonest = counts.most_common(1)[0][0]
    return float(np.mean([item == commonest for ids in heldout for item in ids]))


def _scores(name: str, found: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[str, float]]:
    yield f"{name}_exact_match", exact_match(found, wanted)
    yield f"{name}_error_rate", character_error_rate(found, wanted)
    yield f"{name}_chrf", chrf(found, wanted)
    yield f"{name}_bleu", bleu(found, wanted)


def _commonest(texts: Sequence[str]) -> str:
    """The commonest of them, the first in the alphabet if several are."""
    counts = Counter(texts)
    return min(counts, key=lambda text: (-counts[text], text))
