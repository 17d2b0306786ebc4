"""Held-out video in nats per code, beside the entropy of how often each code occurs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lwm.evaluation.windows import Scored, pack, stride


class Clip(NamedTuple):
    """prefix: text ids up to `<vision>`; tokens: vision ids of whole frames, each with its eof or eov."""

    prefix: np.ndarray
    tokens: np.ndarray


def evaluate(
    score: Callable[[dict[str, np.ndarray]], np.ndarray],
    clips: Sequence[Clip],
    training_counts_V: np.ndarray,
    *,
    codes: int,
    codes_per_frame: int,
    context_length: int,
    batch_size: int,
    max_tokens: int = 0,
    track: Callable[[Iterable, str], Iterable] = lambda items, title: items,
) -> Iterator[tuple[str, float]]:
    """Yields vision_nats_per_token, unigram_entropy and unigram_cross_entropy (its baselines), vision_tokens.

    Every clip is cut into consecutive windows of as many frames as fit beside its prefix; codes alone count,
    not the eof and eov that the layout dictates. unigram_entropy is that of the scored codes themselves, the
    lowest that any fixed distribution could reach on them; unigram_cross_entropy uses the frequencies of the
    training codes, plus one each.

    score: a batch of `windows.pack` -> nll_BT in nats. training_counts_V: how often each code occurs in
    training. max_tokens: 0 scores every window, else about so many tokens at an even stride.
    """
    shape = {"codes": codes, "frame": codes_per_frame + 1, "length": context_length}
    windows = stride([window for clip in clips for window in cut(clip, **shape)], max_tokens)
    nats = 0.0
    for batch in track(list(pack(windows, length=context_length, batch_size=batch_size)), "held-out video"):
        nats += float(np.where(batch["weights"] > 0, score(batch), 0.0).sum(dtype=np.float64))
    scored = np.concatenate([window.tokens[window.counted] for window in windows])
    counts_V = count(scored, codes)
    yield "vision_nats_per_token", nats / len(scored)
    yield "unigram_entropy", cross_entropy(counts_V, counts_V)
    yield "unigram_cross_entropy", cross_entropy(counts_V, training_counts_V + 1)
    yield "vision_tokens", len(scored)


def cut(clip: Clip, *, codes: int, frame: int, length: int) -> Iterator[Scored]:
    """Windows of whole frames of a clip, each behind the clip's prefix, of at most `length` targets.

    frame: tokens of one. The last frame of a window ends in eov = codes + 1, the others in eof = codes.
    ValueError if not even one frame fits.
    """
    fit = (length + 1 - len(clip.prefix)) // frame
    if fit < 1:
        raise ValueError(f"length: {length} does not hold a prefix of {len(clip.prefix)} and one frame")
    for start in range(0, len(clip.tokens), fit * frame):
        vision = np.array(clip.tokens[start : start + fit * frame], np.int32)
        vision[-1] = codes + 1
        tokens = np.concatenate([clip.prefix, vision]).astype(np.int32)
        is_vision = np.arange(len(tokens)) >= len(clip.prefix)
        yield Scored(tokens, is_vision, is_vision & (tokens < codes))


def count(tokens: np.ndarray, codes: int) -> np.ndarray:
    """How often each code occurs, int64 [codes]; eof, eov and other ids are passed over."""
    return np.bincount(tokens[tokens < codes], minlength=codes)


def cross_entropy(counts_V: np.ndarray, model_V: np.ndarray) -> float:
    """Nats per code of codes that occur `counts_V` times under the distribution proportional to `model_V`."""
    seen = counts_V > 0
    p_V, q_V = counts_V / counts_V.sum(), model_V / model_V.sum()
    return float(-(p_V[seen] * np.log(q_V[seen])).sum())
