import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.cache import Filled, Prompt, prefill
from lwm.generation.loop import continue_text, decode_loop, row_keys
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


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, top_k=50)], ids=["greedy", "drawn"])
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


def count_on(start_BV, step, *, guidance, forced):
    rows = len(start_BV) // (2 if guidance != 1 else 1)
    return decode_loop(
        Counter(start_BV.shape[1]),
        step,
        Filled(start_BV, start_BV, jnp.zeros(()), jnp.zeros(len(start_BV), jnp.int32)),
        jnp.asarray(forced, jnp.int32),
        row_keys(0, rows),
        sampling=Sampling(temperature=0.0, guidance=guidance),
        vision=True,
        allowed=start_BV.shape[1],
    ).tolist()


def test_forced_tokens_are_taken_and_fed_back():
    start_BV = -jnp.abs(jnp.arange(50) - 3.0)[None]
    assert count_on(start_BV, 2, guidance=1.0, forced=[-1, -1, 20, -1, -1]) == [[3, 5, 20, 22, 24]]


def test_both_branches_of_guidance_receive_the_same_token():
    conditional_V, unconditional_V = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    start_BV = jnp.stack([conditional_V, unconditional_V])
    first = int(np.argmax(unconditional_V + 3 * (conditional_V - unconditional_V)))
    # Afterwards both branches say the same, so at any scale the counter goes on from the first token.
    new = count_on(start_BV, 1, guidance=3.0, forced=[-1] * 4)
    assert new == [[min(first + i, 49) for i in range(4)]]


def test_guidance_1_is_the_conditional_model_and_0_the_unconditional(debug_model):
    model, params = debug_model
    forced = jnp.full(8, -1, jnp.int32)

    def run(prompts, guidance):
        filled = prefill(model, params, prompts, room=8, chunk=32)
        sampling = Sampling(temperature=0.0, guidance=guidance)
        return decode_loop(
            model, params, filled, forced, row_keys(0, 1), sampling=sampling, vision=True, allowed=64
        ).tolist()

    assert run(PROMPTS[:2], 0.0) == run(PROMPTS[1:2], 1.0)
    assert run(PROMPTS[:2], 1 + 1e-6) == run(PROMPTS[:1], 1.0) != run(PROMPTS[1:2], 1.0)
