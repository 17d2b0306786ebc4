"""Documents of text and pictures as they are written: the whole forward pass, draws, bounds."""

import itertools

import jax
import numpy as np
import pytest

from lwm.data.interleaved_pieces import Marks, pieces_of
from lwm.data.interleaved_records import PageRecord
from lwm.generation import dreams
from lwm.generation.cache import Prompt, extend
from lwm.generation.dreams import Bounds, Drawing, Drawn, Said
from lwm.generation.sampler import Sampling
from lwm.serving import pages

BOS, EOS, CONTEXT, LENGTH = 1, 2, 96, 48
TEXTS = [70, 71, 72], [80, 81], [90, 91, 92, 93]


@pytest.fixture(scope="module")
def case(dream_run):
    """(model, params)"""
    run = pages.load(dream_run)
    return run.model, run.params


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def whole(case):
    """`whole(form)` of the forward pass: where texts end, logits [T, V] and conditions [I, Q, C] of a page
    with a picture behind its first and one behind its second text."""
    model, params = case
    config = model.config

    @jax.jit
    def run(params, batch):
        def read(network):
            x_BTD = network.laid_out(batch["tokens"], network.seen(batch["frames"]), batch["places"])
            hidden_BTD, _ = network.language.trunk(x_BTD, batch["positions"], batch["segments"])
            return network.language.lm_head(hidden_BTD), network.dreams(hidden_BTD, batch["places"], 2)

        return model.network.apply({"params": params}, method=read)

    def make(form):
        marks = Marks(BOS, EOS, config.dream_start, config.queries, config.vision.patches)
        page = PageRecord("page", np.concatenate(TEXTS), np.array([3, 2, 4]), np.ones(3, bool), pictures(2),
                          np.array([1, 2]))  # fmt: skip
        (piece,) = pieces_of(page, form, marks, slots=LENGTH, images=2)
        fill = (0, LENGTH - len(piece.places))
        tokens, places = np.pad(piece.example.tokens, fill)[None], np.pad(piece.places, fill)[None]
        batch = {"tokens": tokens, "places": places, "frames": piece.images[None]}
        batch |= {"positions": np.arange(LENGTH)[None], "segments": np.ones((1, LENGTH), np.int32)}
        logits_BTV, condition = run({name: own for name, own in params.items() if name != "decoder"}, batch)
        ends = [int(np.argmax(tokens[0] == text[-1])) for text in TEXTS]
        return ends, logits_BTV[0], condition.vectors_BSC

    return make


@pytest.mark.parametrize("form", ["joint", "comprehension"])
def test_what_is_read_bit_by_bit_is_the_whole_forward_pass(case, whole, form):
    model, params = case
    ends, logits_TV, conditions = whole(form)
    dreamed, (first, second) = form == "joint", pictures(2)
    filled = dreams.read(model, params, BOS, [TEXTS[0], first, TEXTS[1]], room=CONTEXT, dreamed=dreamed)
    assert filled.positions_B[0] == ends[1] + 1
    np.testing.assert_allclose(filled.text_logits_BV[0], logits_TV[ends[1]], atol=1e-4)
    if dreamed:
        filled, condition = dreams.dream(model, params, filled)
        np.testing.assert_allclose(condition.vectors_BSC[0], conditions[1], atol=1e-4)
    filled = dreams.see(model, params, filled, second[None], dreamed=dreamed)
    filled = extend(model.speaker, params["language"], filled, [Prompt.of_text(TEXTS[2])])
    np.testing.assert_allclose(filled.text_logits_BV[0], logits_TV[ends[2]], atol=1e-4)
    parts = [TEXTS[0], first, TEXTS[1], second, TEXTS[2]]
    assert filled.positions_B[0] == ends[2] + 1 == dreams.positions_of(model, parts, dreamed=dreamed)


@pytest.mark.slow
def test_texts_of_unequal_length_are_drawn_together_as_they_would_be_alone(case):
    model, params = case
    how = {"bos": BOS, "drawing": Drawing(steps=2, guidance=3.0)}
    together = dreams.draw(model, params, TEXTS, jax.random.key(0), **how)
    assert together.shape == (3, 8, 8, 3) and np.any(together[0] != together[1])
    without, conditions = dreams.nothing(model, params, BOS, room=9), []
    for text in TEXTS:
        filled = dreams.read(model, params, BOS, [text], room=CONTEXT)
        conditions.append(dreams.dream(model, params, filled)[1])
    alone, nothing = (
        jax.tree.map(lambda *x: np.concatenate(x), *own) for own in (conditions, [without] * len(TEXTS))
    )
    drawn = model.decoder.sample(params["decoder"], alone, jax.random.key(0), 2, 3.0, unconditional=nothing)
    np.testing.assert_allclose(together.astype(int), drawn.astype(int), atol=1)


def write(case, *parts, tokens=60, count=2, seed=0, guidance=2.0):
    bounds = Bounds(CONTEXT, tokens, count)
    how = {"text": Sampling(), "drawing": Drawing(3, guidance), "bos": BOS, "eos": EOS}
    return list(dreams.write(*case, parts, bounds, seed=seed, **how))


def told(events):
    """All ids, all pictures."""
    ids = [token for event in events if isinstance(event, Said) for token in event.ids]
    return ids, [event.picture for event in events if isinstance(event, Drawn) and event.picture is not None]


def test_a_document_is_text_in_which_dreams_open_by_themselves(case):
    model, _ = case
    events = write(case, TEXTS[0])
    ids, drawn = told(events)
    assert (
        len(drawn) == 2
        and ids.count(model.config.dream_start) == 2
        and max(ids) < model.config.dream_start + 1
    )
    assert drawn[0].shape == (8, 8, 3) and drawn[0].dtype == np.uint8 and np.any(drawn[0] != drawn[1])
    # Each picture comes in its steps, right behind the id that asks for it; text goes on after the last.
    runs = [list(own) for _, own in itertools.groupby(events, type)]
    for before, own in itertools.pairwise(runs):
        if isinstance(own[0], Drawn):
            assert before[-1].ids[-1] == model.config.dream_start
            assert [event.step for event in own] == [1, 2, 3]
            assert [event.picture is None for event in own] == [True, True, False]
    assert isinstance(runs[-1][0], Said)


@pytest.mark.slow
def test_equal_seeds_give_equal_documents(case):
    (ids, drawn), (again, redrawn) = told(write(case, TEXTS[0])), told(write(case, TEXTS[0]))
    assert ids == again
    np.testing.assert_array_equal(drawn, redrawn)
    other, others = told(write(case, TEXTS[0], seed=1))
    assert ids != other and np.any(others[0] != drawn[0])


@pytest.mark.slow
def test_guidance_goes_from_the_dream_of_nothing_to_that_of_the_text(case):
    def first(text, guidance):
        return told(write(case, text, count=1, guidance=guidance))[1][0].astype(int)

    assert np.abs(first(TEXTS[0], 0.0) - first(TEXTS[2], 0.0)).max() <= 1
    assert np.abs(first(TEXTS[0], 30.0) - first(TEXTS[2], 30.0)).max() > 5


def test_what_follows_a_picture_knows_it(case):
    def follows(picture):
        return dreams.read(*case, BOS, [TEXTS[0], picture], room=CONTEXT).text_logits_BV

    one, other = pictures(2)
    assert np.abs(follows(one) - follows(other)).max() > 1e-2


@pytest.mark.slow
def test_documents_end_at_their_bounds(case):
    model, _ = case
    dream_start, block = model.config.dream_start, model.config.span + 4
    ids, drawn = told(write(case, TEXTS[0], tokens=7, count=9))
    assert len(ids) == 7 or ids[-1] == EOS
    ids, drawn = told(write(case, TEXTS[0], count=0))
    assert dream_start not in ids and not drawn
    for length in (20, 30):  # of each of two texts before
        ids, drawn = told(write(case, [70] * length, [71] * length, count=9))
        used = 1 + 2 * length + len(ids) + len(drawn) * (block - 1)
        assert drawn and (used == CONTEXT or ids[-1] == EOS)
