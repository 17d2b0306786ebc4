"""Answers behind pictures, many at once: those of each alone, and none without a picture."""

import numpy as np
import pytest

from lwm.generation import dreams
from lwm.generation.cache import Prompt, extend
from lwm.generation.dream_answers import answer
from lwm.serving import pages

BOS, EOS = 1, 2


def test_answers_are_the_likeliest_words_of_each_prompt_alone(dream_run):
    run = pages.load(dream_run)
    model, params = run.model, run.params
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    prompts = [[pictures[0], [70, 71, 72]], [[80], pictures[1], [90, 91, 92, 93, 94]]]
    found = answer(model, params, prompts, bos=BOS, eos=EOS, new_tokens=3)
    for parts, said in zip(prompts, found, strict=True):
        filled = dreams.read(model, params, BOS, parts, room=64, dreamed=False)
        alone = []
        while len(alone) < 3:
            token = int(np.argmax(filled.text_logits_BV[0, : model.config.dream_start]))
            if token == EOS:
                break
            alone.append(token)
            filled = extend(model.speaker, params["language"], filled, [Prompt.of_text([token])])
        assert said == alone
    with pytest.raises(ValueError, match=r"pictures in them are \[0, 1\]"):
        answer(model, params, [[[70]], prompts[0]], bos=BOS, eos=EOS, new_tokens=1)
