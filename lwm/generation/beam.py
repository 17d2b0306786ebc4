"""The likeliest texts by beam search, with scores divided by a power of the length; one beam is greedy.

    score = log-probability / ((5 + length) / 6)^alpha        (1609.08144, equation 14)

A text counts with its end. Texts that have ended leave their beam empty and wait: the best of all that ended
wins, or the best beam of a row in which none has. With one beam the first end is the end.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

NEVER = -1e30


class Texts(NamedTuple):
    """words_BT: int32, the end included, 0 behind it; scores_B: float32."""

    words_BT: jax.Array
    scores_B: jax.Array


class _Search(NamedTuple):
    """W beams a row: state and next logits of all, words and log-probabilities, the best that has ended."""

    state: Any
    logits: jax.Array
    words_BWT: jax.Array
    log_BW: jax.Array
    ended: Texts
    length: jax.Array


def beam_search(
    step: Callable[[Any, jax.Array], tuple[jax.Array, Any]],
    take: Callable[[Any, jax.Array], Any],
    state: Any,
    logits_BV: jax.Array,
    *,
    beams: int,
    length: int,
    eos: int,
    alpha: float = 0.6,
) -> Texts:
    """Searches for all rows at once, for use under `jit`.

    Args:
        step: (state, words int32 [rows]) to (logits [rows, V] of the next word, state).
        take: (state, indices) to the state of these rows.
        state, logits_BV: after the command, a row for each text.
        beams: of a row, 1 = greedy. length: most words of a text, its end included; at least 1.
        eos: id of the end. Id 0 is padding and never chosen.

    Returns:
        The best text of each row.
    """
    B, V = logits_BV.shape
    rows = jnp.repeat(jnp.arange(B), beams)
    log_BW = jnp.full((B, beams), NEVER).at[:, 0].set(0.0)
    nothing = Texts(jnp.zeros((B, length), jnp.int32), jnp.full(B, NEVER))
    empty_BWT = jnp.zeros((B, beams, length), jnp.int32)
    start = _Search(take(state, rows), logits_BV[rows], empty_BWT, log_BW, nothing, jnp.int32(0))

    def going(search: _Search):
        # A living text cannot overtake once its sum, which only falls, is worse at the greatest length.
        hope_B = jnp.max(search.log_BW, axis=1) / _penalty(length, alpha)
        return (search.length < length) & jnp.any(hope_B > search.ended.scores_B)

    def extend(search: _Search) -> _Search:
        at = search.length
        next_BWV = jax.nn.log_softmax(search.logits.astype(jnp.float32)).reshape(B, beams, V)
        sums_BWV = search.log_BW[..., None] + next_BWV.at[..., 0].set(NEVER)
        log_BW, best_BW = jax.lax.top_k(sums_BWV.reshape(B, -1), beams)
        from_BW, words_BW = best_BW // V, (best_BW % V).astype(jnp.int32)
        words_BWT = jnp.take_along_axis(search.words_BWT, from_BW[..., None], axis=1)
        words_BWT = words_BWT.at[:, :, at].set(words_BW)
        ends_BW = (words_BW == eos) & (log_BW > NEVER / 2)
        ended = _better(search.ended, words_BWT, jnp.where(ends_BW, log_BW / _penalty(at + 1, alpha), NEVER))
        flat = (jnp.arange(B)[:, None] * beams + from_BW).reshape(-1)
        logits, state = step(take(search.state, flat), words_BW.reshape(-1))
        return _Search(state, logits, words_BWT, jnp.where(ends_BW, NEVER, log_BW), ended, at + 1)

    found = jax.lax.while_loop(going, extend, start)
    # A row in which nothing has ended gives its best beam, cut off.
    cut_BW = jnp.where(
        found.ended.scores_B[:, None] > NEVER / 2, NEVER, found.log_BW / _penalty(found.length, alpha)
    )
    return _better(found.ended, found.words_BWT, cut_BW)


@functools.partial(jax.jit, static_argnames=("model", "beams", "length", "alpha"))
def write_texts(
    model: Any, params: dict, rows: dict, *, beams: int = 4, length: int = 0, alpha: float = 0.6
) -> Texts:
    """The texts that a MultiModel answers to rows of one kind.

    Args:
        rows: as in a batch, the input and `task`; with `weights` those of 0, which fill up, are padding to
            the encoder: they take no place at its experts, and their texts mean nothing. What else there is
            is not read.
        beams, alpha: see `beam_search`.
        length: most words, 0 = as many as the model was made for.
    """
    length = length or model.config.target_length
    source = model.encode(params, rows)
    logits_BV, decoding = model.begin(params, source, rows["task"], length)
    return beam_search(
        functools.partial(model.step, params),
        lambda decoding, rows: decoding.take(rows),
        decoding,
        logits_BV,
        beams=beams,
        length=length,
        eos=model.config.eos,
        alpha=alpha,
    )


def _better(ended: Texts, words_BWT: jax.Array, scores_BW: jax.Array) -> Texts:
    """The best of what had ended before and of the beams."""
    best_B = jnp.argmax(scores_BW, axis=1)
    words_BT = jnp.take_along_axis(words_BWT, best_B[:, None, None], axis=1)[:, 0]
    scores_B = jnp.max(scores_BW, axis=1)
    wins_B = scores_B > ended.scores_B
    return Texts(
        jnp.where(wins_B[:, None], words_BT, ended.words_BT), jnp.where(wins_B, scores_B, ended.scores_B)
    )


def _penalty(length, alpha: float):
    return ((5.0 + length) / 6.0) ** alpha
