"""Beam search against an enumeration of all texts of a language small enough for it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.beam import beam_search

V, EOS, LENGTH, ROWS = 5, 2, 4, 3


def table(seed):
    """Logits of the next word after each word, for each row: [rows, V, V]; row 0 of a table starts."""
    return np.random.default_rng(seed).normal(size=(ROWS, V, V)).astype(np.float32) * 2


def search(logits, beams, alpha=0.6, length=LENGTH):
    """The state of a text is its table and how many words it has."""

    def step(state, words):
        tables, count = state
        return jnp.take_along_axis(tables, words[:, None, None], axis=1)[:, 0] + 0.1 * count, (
            tables,
            count + 1,
        )

    def take(state, rows):
        return state[0][rows], state[1]

    run = jax.jit(
        lambda tables: beam_search(
            step, take, (tables, 0), tables[:, 0], beams=beams, length=length, eos=EOS, alpha=alpha
        )
    )
    return jax.tree.map(np.asarray, run(jnp.asarray(logits)))


def log_softmax(x):
    return x - np.log(np.exp(x - x.max()).sum()) - x.max()


def score(table, words, alpha):
    before = (0, *words[:-1])
    total = sum(log_softmax(table[a])[b] for a, b in zip(before, words, strict=True))
    return total / ((5 + len(words)) / 6) ** alpha


def every_text():
    words = [word for word in range(1, V) if word != EOS]
    return [(*text, EOS) for n in range(LENGTH) for text in itertools.product(words, repeat=n)]


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.5])
def test_with_beams_enough_it_finds_the_best_text_of_all(alpha):
    for seed in range(3):
        tables = table(seed)
        texts = search(tables, beams=V**LENGTH, alpha=alpha)
        for row in range(ROWS):
            best = max(every_text(), key=lambda words: score(tables[row], words, alpha))
            assert (
                tuple(texts.words_BT[row][: len(best)]) == best and not texts.words_BT[row][len(best) :].any()
            )
            np.testing.assert_allclose(texts.scores_B[row], score(tables[row], best, alpha), rtol=1e-4)


def test_one_beam_takes_the_likeliest_word_each_time_and_stops_at_the_first_end():
    for seed in range(4):
        tables = table(seed)
        texts = search(tables, beams=1)
        for row in range(ROWS):
            words, last = [], 0
            while len(words) < LENGTH and last != EOS:
                last = 1 + int(np.argmax(tables[row][last][1:]))
                words.append(last)
            assert texts.words_BT[row].tolist() == words + [0] * (LENGTH - len(words))


def test_more_beams_find_better_texts():
    better = []
    for seed in range(4):
        few, many = (search(table(seed), beams=beams) for beams in (1, V**LENGTH))
        ended = (few.words_BT == EOS).any(axis=1)
        assert (many.scores_B >= few.scores_B - 1e-5)[ended].all()
        better.extend((many.scores_B > few.scores_B + 1e-3)[ended])
    assert any(better)


def test_a_text_without_an_end_is_cut_off():
    tables = table(0)
    tables[:, :, EOS] = -1e9
    texts = search(tables, beams=2)
    assert (texts.words_BT > 0).all() and EOS not in texts.words_BT and (texts.scores_B > -1e9).all()
