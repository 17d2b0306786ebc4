import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.cache import Filled, Prompt, extend, prefill
from lwm.generation.loop import begin, burst, continue_text, generate
from lwm.generation.modality import Grammar
from lwm.generation.sampler import Sampling

GREEDY = Sampling(temperature=0.0)
PROMPTS = [Prompt.of_text(np.random.default_rng(n).integers(3, 259, n)) for n in (40, 7, 19)]


def sample(model, params, prompts, **changes):
    settings = dict(new_tokens=12, sampling=GREEDY, seed=0, vocab_size=259, chunk=32) | changes
    return continue_text(model, params, prompts, **settings)


def test_greedy_decoding_is_the_argmax_of_the_full_forward(debug_model, full_logits):
    model, params = debug_model
    for prompt, new in zip(PROMPTS, sample(model, params, PROMPTS), strict=True):
        ids = list(prompt.tokens)
        for token in new:
            assert token == int(jnp.argmax(full_logits(Prompt.of_text(ids))[0]))
            ids.append(token)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, Sampling(temperature=1.0, top_k=50)],
    ids=["greedy", "drawn"],
)
def test_the_first_row_of_a_batch_is_the_prompt_alone(debug_model, sampling):
    model, params = debug_model
    for at in range(3):
        prompts = PROMPTS[at:] + PROMPTS[:at]
        together = sample(model, params, prompts, sampling=sampling)
        assert together[0] == sample(model, params, prompts[:1], sampling=sampling)[0]


def test_equal_seeds_agree_and_others_do_not(debug_model):
    model, params = debug_model
    drawn = [sample(model, params, PROMPTS, sampling=Sampling(), seed=seed) for seed in (4, 4, 5)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_row_ends_before_its_stop_token_and_others_go_on(debug_model):
    model, params = debug_model
    free = sample(model, params, PROMPTS)
    stop = free[1][3]
    expected = [row[: row.index(stop)] if stop in row else row for row in free]
    assert any(len(row) == 12 for row in expected)
    assert sample(model, params, PROMPTS, stop=(stop,)) == expected


def test_ids_beyond_the_tokenizer_are_never_drawn(debug_model):
    model, params = debug_model
    rows = sample(model, params, PROMPTS, sampling=Sampling(temperature=5.0), vocab_size=20)
    assert max(max(row) for row in rows) < 20


class Counter:
    """A toy model whose vision head says the last token plus `params`; its text head says something else."""

    def __init__(self, V):
        self.V = V

    def decode(self, params, tokens_BT, is_vision_BT, positions_BT, cache):
        logits_BTV = -jnp.abs(jnp.arange(self.V) - (tokens_BT + params)[..., None]).astype(jnp.float32)
        return jnp.flip(logits_BTV, -1), logits_BTV, cache


def count_on(start_BV, step, *, guidance, frames=1, codes_per_frame=4):
    """The codes and delimiters of `frames` frames, the first from `start_BV`, the others counted on."""
    rows = len(start_BV) // (2 if guidance != 1 else 1)
    grammar = Grammar(codes=start_BV.shape[1] - 2, codes_per_frame=codes_per_frame)
    total = frames * (codes_per_frame + 1)
    filled = Filled(None, jnp.asarray(start_BV), jnp.zeros(()), jnp.zeros(len(start_BV), jnp.int32))
    prompts = [Prompt.of_text([1])] * rows
    state = begin(filled, prompts, grammar, new_tokens=total, seed=0, frames=frames)
    how = {"grammar": grammar, "text": GREEDY, "vision": Sampling(temperature=0.0, guidance=guidance)}
    return burst(Counter(start_BV.shape[1]), step, state, steps=total, **how)[1].tolist()


def test_forced_tokens_are_taken_and_fed_back():
    start_BV = -np.abs(np.arange(50, dtype=np.float32) - 3)[None]
    # 48 ends a frame; from there the counter would go on to 50, so it says the largest code.
    assert count_on(start_BV, 2, guidance=1.0, frames=2, codes_per_frame=2) == [[3, 5, 48, 47, 47, 49]]
    assert count_on(start_BV, -9, guidance=1.0, frames=2, codes_per_frame=2) == [[3, 0, 48, 39, 30, 49]]


def test_both_branches_of_guidance_receive_the_same_token():
    conditional_V, unconditional_V = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    start_BV = np.stack([conditional_V, unconditional_V])
    first = int(np.argmax((unconditional_V + 3 * (conditional_V - unconditional_V))[:48]))
    # Afterwards both branches say the same, so at any scale the counter goes on from the first token.
    new = count_on(start_BV, 1, guidance=3.0)
    assert new == [[*(min(first + i, 47) for i in range(4)), 49]]


@pytest.mark.slow
def test_guidance_1_is_the_conditional_model_and_0_the_unconditional(debug_model):
    model, params = debug_model

    def run(prompts, guidance):
        said = generate(
            model,
            params,
            prompts[:1],
            new_tokens=10,
            grammar=Grammar(codes=64, codes_per_frame=9),
            seed=0,
            vision=Sampling(temperature=0.0, guidance=guidance),
            unconditional=prompts[1:],
            frames=1,
            chunk=32,
        )
        return next(said).tokens_BT.tolist()

    assert run(PROMPTS[:2], 0.0) == run(PROMPTS[1:2], 1.0)
    assert run(PROMPTS[:2], 1 + 1e-6) == run(PROMPTS[:1], 1.0) != run(PROMPTS[1:2], 1.0)


def test_a_burst_leaves_a_cache_that_a_longer_prompt_would_have_left(debug_model):
    model, params = debug_model
    ask, grammar = PROMPTS[1], Grammar(text=259)
    state = begin(prefill(model, params, [ask], room=64), [ask], grammar, new_tokens=6, seed=0)
    state, tokens_BT, _ = burst(model, params, state, grammar=grammar, text=GREEDY, vision=GREEDY, steps=32)
    said = tokens_BT[0, :6].tolist()
    more = extend(model, params, state.filled, [Prompt.of_text([9, 8, 7])], chunk=32)
    whole = prefill(model, params, [Prompt.of_text([*ask.tokens, *said, 9, 8, 7])], room=1, chunk=32)
    assert more.positions_B.tolist() == whole.positions_B.tolist() == [len(ask.tokens) + 9]
    np.testing.assert_allclose(more.text_logits_BV, whole.text_logits_BV, atol=2e-4)


def test_a_stop_token_is_said_but_not_seen(debug_model):
    model, params = debug_model
    free = sample(model, params, PROMPTS[1:2])[0]
    stop = free[3]
    grammar = Grammar(text=259, stop=(stop,))
    state = begin(prefill(model, params, PROMPTS[1:2], room=64), PROMPTS[1:2], grammar, new_tokens=20, seed=0)
    state, *_ = burst(model, params, state, grammar=grammar, text=GREEDY, vision=GREEDY, steps=32)
    said = free[: free.index(stop)]
    assert state.filled.positions_B.tolist() == [len(PROMPTS[1].tokens) + len(said)]
    more = extend(model, params, state.filled, [Prompt.of_text([9, 8])], chunk=32)
    whole = prefill(model, params, [Prompt.of_text([*PROMPTS[1].tokens, *said, 9, 8])], room=1, chunk=32)
    np.testing.assert_allclose(more.text_logits_BV, whole.text_logits_BV, atol=2e-4)
