import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwm.data.packing import Example, pack, pack_row

VOCABULARY = 7


def example(rng, slots, *, vision=False, prompt=0):
    """Random tokens; with `vision` a stretch of pictures, with `prompt` so many tokens not learned."""
    tokens = rng.integers(1, VOCABULARY, slots + 1).astype(np.int32)
    is_vision, loss = np.zeros(slots + 1, bool), np.ones(slots + 1, bool)
    if vision:
        first, last = sorted(rng.integers(1, slots + 1, 2))
        is_vision[first : last + 1] = True
    loss[: prompt + 1] = False
    return Example(tokens, is_vision, loss)


@st.composite
def example_lists(draw, most=24):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(
        st.lists(st.tuples(st.integers(1, most), st.booleans(), st.integers(0, 30)), min_size=1, max_size=9)
    )
    return [example(rng, slots, vision=vision, prompt=prompt) for slots, vision, prompt in shapes]


@settings(deadline=None)
@given(example_lists(), st.integers(24, 40))
def test_every_slot_is_kept_in_order_and_nothing_leaks_into_a_neighbour(examples, length):
    packed = pack(examples, length)
    used = packed["segments"] > 0
    for name, part in (("tokens", slice(None, -1)), ("targets", slice(1, None))):
        assert (packed[name][used] == np.concatenate([one.tokens[part] for one in examples])).all()
    assert (packed["is_vision"][used] == np.concatenate([one.is_vision[:-1] for one in examples])).all()
    assert (
        packed["targets_are_vision"][used] == np.concatenate([one.is_vision[1:] for one in examples])
    ).all()
    for row in range(len(used)):
        segments, positions = packed["segments"][row], packed["positions"][row]
        assert (segments[~used[row]] == 0).all() and (np.diff(used[row].astype(int)) <= 0).all()
        inside = segments[:-1] == segments[1:]
        assert (np.diff(positions)[inside & used[row][1:]] == 1).all()
        assert (packed["targets"][row][:-1] == packed["tokens"][row][1:])[inside & used[row][1:]].all()
        starts = np.flatnonzero(np.diff(segments, prepend=0) & (segments > 0))
        assert (positions[starts] == 0).all() and (segments[starts] == np.arange(1, len(starts) + 1)).all()
    for name in ("tokens", "targets", "positions", "weights"):
        assert (packed[name][~used] == 0).all()


@settings(deadline=None)
@given(example_lists(), st.integers(24, 40))
def test_only_plain_text_is_split(examples, length):
    named = [one._replace(tokens=np.full_like(one.tokens, at)) for at, one in enumerate(examples, start=1)]
    tokens = pack(named, length)["tokens"]
    for at, one in enumerate(named, start=1):
        in_rows = (tokens == at).sum(1)
        assert in_rows.sum() == one.slots
        assert one.splits or (in_rows > 0).sum() == 1
    for row, following in zip(tokens, tokens[1:], strict=False):
        assert row.all() or not named[following[0] - 1].splits, (
            "a row ends early only for what cannot be split"
        )


def test_a_split_document_goes_on_where_it_was_cut():
    text = Example(np.arange(1, 12, dtype=np.int32), np.zeros(11, bool), np.ones(11, bool))
    packed = pack([text], 4)
    assert packed["tokens"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]]
    assert packed["targets"].tolist() == [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 0, 0]]
    assert packed["positions"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 0, 0]]
    assert packed["weights"].tolist() == [[0.25] * 4, [0.25] * 4, [0.5, 0.5, 0, 0]]


def test_pictures_and_questions_wait_for_a_row_of_their_own():
    rng = np.random.default_rng(0)
    text, picture, question = example(rng, 5), example(rng, 6, vision=True), example(rng, 6, prompt=3)
    assert pack([text, picture, question], 8)["segments"].tolist() == [
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
    ]
    with pytest.raises(ValueError, match="with vision fills 9 slots"):
        pack([example(rng, 9, vision=True)], 8)
    long_question = pack([example(rng, 9, prompt=3)], 8)
    assert (long_question["segments"] > 0).sum() == 9, "a question longer than any row is split after all"


def test_a_row_cannot_be_overfilled_or_weighted_by_a_wrong_name():
    one = example(np.random.default_rng(0), 5)
    with pytest.raises(ValueError, match="10 slots"):
        pack_row([one, one], 8)
    with pytest.raises(ValueError, match="weighting"):
        pack_row([one], 8, "segment")


def padded_loss(table, examples):
    """The definition: one example a row, its mean over the loss tokens of a modality, the mean over rows."""
    rows = {False: [], True: []}
    for one in examples:
        losses = jax.nn.log_softmax(table)[one.tokens[:-1]]
        nll = -losses[jnp.arange(len(one.tokens) - 1), one.tokens[1:]]
        for vision, found in rows.items():
            counts = one.loss[1:] & (one.is_vision[1:] == vision)
            found.append(jnp.sum(nll * counts) / max(counts.sum(), 1))
    return 0.3 * jnp.mean(jnp.stack(rows[False])) + 0.7 * jnp.mean(jnp.stack(rows[True]))


def packed_loss(table, batch):
    """The formula of `packing`, with a model that sees one token back and so crosses no border."""
    logits = jax.nn.log_softmax(table)[batch["tokens"]]
    nll = -jnp.take_along_axis(logits, batch["targets"][..., None], -1)[..., 0]
    share = jnp.where(batch["targets_are_vision"], 0.7, 0.3)
    return jnp.sum(nll * batch["weights"] * share) / batch["segments"].max(1).sum()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_packed_loss_and_gradients_are_those_of_padded_rows(seed):
    rng = np.random.default_rng(seed)
    table = jnp.asarray(rng.normal(size=(VOCABULARY, VOCABULARY)), jnp.float32)
    examples = [
        example(rng, int(rng.integers(1, 20)), vision=vision, prompt=prompt)
        for vision, prompt in [
            (False, 1),
            (True, 2),
            (True, 0),
            (False, 5),
            (True, 30),
            (False, 1),
            (True, 0),
        ]
    ]
    batch = pack(examples, 24)  # several rows; nothing here is plain text, which would be split
    assert len(batch["segments"]) > 1 and batch["segments"].max(1).sum() == len(examples)
    value, gradient = jax.jit(jax.value_and_grad(packed_loss))(table, batch)
    expected, expected_gradient = jax.jit(jax.value_and_grad(lambda table: padded_loss(table, examples)))(
        table
    )
    np.testing.assert_allclose(value, expected, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6, rtol=1e-5)


@settings(deadline=None)
@given(example_lists())
def test_each_example_weighs_one_in_each_modality_it_learns(examples):
    row = pack_row(examples, 300)
    for segment, one in enumerate(examples, start=1):
        for vision in (False, True):
            here = (row["segments"] == segment) & (row["targets_are_vision"] == vision)
            learns = (one.loss[1:] & (one.is_vision[1:] == vision)).any()
            assert row["weights"][here].sum() == pytest.approx(float(learns), abs=1e-5)
            assert len(set(row["weights"][here].tolist()) - {0.0}) <= 1


@settings(deadline=None)
@given(example_lists())
def test_by_token_all_loss_tokens_of_a_row_weigh_the_same(examples):
    row = pack_row(examples, 300, "token")
    counts = np.concatenate([one.loss[1:] for one in examples])
    vision = np.concatenate([one.is_vision[1:] for one in examples])
    for modality in (False, True):
        weights = row["weights"][: len(counts)][vision == modality]
        learned = counts[vision == modality]
        assert (weights[~learned] == 0).all()
        if learned.any():
            np.testing.assert_allclose(weights[learned], len(examples) / learned.sum(), rtol=1e-6)


def test_no_example_makes_one_row_of_padding():
    assert {name: (array.shape, array.any()) for name, array in pack([], 8).items()} == {
        name: ((1, 8), False) for name in pack_row([], 8)
    }
