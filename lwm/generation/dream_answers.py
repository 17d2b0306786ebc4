"""What a DreamLLM says behind pictures and text, for many prompts at once: the likeliest words, no dreams."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lwm.generation.cache import Prompt, prefill
from lwm.generation.dreams import Part
from lwm.generation.loop import BURST, begin, burst, unfinished
from lwm.generation.modality import Grammar
from lwm.generation.sampler import PLAIN, Sampling
from lwm.models.dream_speaker import beside
from lwm.models.dreamllm import DreamLLM


def answer(
    model: DreamLLM, params: dict, prompts: Sequence[Sequence[Part]], *, bos: int, eos: int, new_tokens: int
) -> list[list[int]]:
    """Ids behind each of the prompts up to `eos`, which is left out, or so many.

    Pictures are seen without queries in front, as in documents of the form "comprehension".

    Raises:
        ValueError: prompts with unequal numbers of pictures, or without any.
    """
    shown = [[part for part in parts if isinstance(part, np.ndarray)] for parts in prompts]
    if len({len(own) for own in shown}) != 1 or not shown[0]:
        raise ValueError(
            f"prompts: pictures in them are {sorted({len(own) for own in shown})}; needs as many in all"
        )
    seen_BMD = _seen(model, params, jnp.asarray(np.stack([np.stack(own) for own in shown])))
    asked = [_prompt(model, bos, parts) for parts in prompts]
    room = -(-new_tokens // BURST) * BURST
    filled = prefill(model.speaker, beside(params["language"], seen_BMD), asked, room=room)
    grammar = Grammar(text=model.config.dream_start, stop=(eos,))
    state, said = begin(filled, asked, grammar, new_tokens=new_tokens, seed=0), [[] for _ in prompts]
    how = {"grammar": grammar, "text": Sampling(temperature=0.0), "vision": PLAIN, "steps": BURST}
    while unfinished(state):
        state, tokens_BT, _ = burst(model.speaker, params["language"], state, **how)
        for own, tokens_T in zip(said, np.asarray(tokens_BT), strict=True):
            own += [int(token) for token in tokens_T if token >= 0 and token != eos]
    return said


def _prompt(model: DreamLLM, bos: int, parts: Sequence[Part]) -> Prompt:
    """Begin of text and the parts; the patches of all pictures are numbered through."""
    P, start = model.config.vision.patches, model.config.dream_start + 2
    tokens, is_vision, shown = [bos], [False], 0
    for part in parts:
        if isinstance(part, np.ndarray):
            tokens += [start, *range(shown, shown + P), start + 1]
            is_vision += [False, *[True] * P, False]
            shown += P
        else:
            tokens += list(part)
            is_vision += [False] * len(part)
    return Prompt(np.asarray(tokens, np.int32), np.asarray(is_vision))


def _seen(model: DreamLLM, params: dict, pictures_BIRRC: jax.Array) -> jax.Array:
    return jax.jit(model.seen)(params, pictures_BIRRC)
