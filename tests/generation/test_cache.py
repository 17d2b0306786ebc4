import numpy as np
import pytest

from lwm.generation.cache import Prompt, pad_prompts, prefill


def mixed_prompt(length, seed):
    """Text, then codes from the middle on."""
    tokens = np.random.default_rng(seed).integers(3, 60, length).astype(np.int32)
    return Prompt(tokens, np.arange(length) >= length // 2)


def test_prompts_meet_in_the_last_column():
    tokens, is_vision, positions = pad_prompts([Prompt.of_text([5, 6, 7]), mixed_prompt(2, 0)], 4)
    assert tokens.shape == (2, 4)
    assert tokens[0].tolist() == [0, 5, 6, 7]
    assert positions.tolist() == [[-1, 0, 1, 2], [-1, -1, 0, 1]]
    assert is_vision.tolist() == [[False] * 4, [False, False, False, True]]


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="no token"):
        pad_prompts([Prompt.of_text([1]), Prompt.of_text([])], 4)


def test_unequal_prompts_in_chunks_give_the_logits_of_each_alone(debug_model, full_logits):
    model, params = debug_model
    prompts = [mixed_prompt(length, length) for length in (70, 3, 33)]
    filled = prefill(model, params, prompts, room=5, chunk=32)
    assert int(filled.cache.length) == 96 and filled.positions_B.tolist() == [70, 3, 33]
    for row, prompt in enumerate(prompts):
        text_V, vision_V = full_logits(prompt)
        np.testing.assert_allclose(filled.text_logits_BV[row], text_V, atol=2e-4)
        np.testing.assert_allclose(filled.vision_logits_BV[row], vision_V, atol=2e-4)


def test_the_chunk_does_not_matter(debug_model):
    model, params = debug_model
    prompts = [mixed_prompt(100, 1), mixed_prompt(41, 2)]
    small, large = (prefill(model, params, prompts, room=1, chunk=chunk) for chunk in (32, 128))
    np.testing.assert_allclose(small.text_logits_BV, large.text_logits_BV, atol=2e-4)
