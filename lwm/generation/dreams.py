"""Documents of text and pictures by a DreamLLM (2309.11499, section 3.2 and figure 2): read, dreamed, drawn.

    … text <dream_start> q … q <dream_end> <image_start> v … v <image_end> text …

The model says <dream_start> itself. The dream queries are read then, what becomes of them is what a picture
is drawn from, and the picture is read like one of the prompt, so that what follows knows it. Everything that
was read is a `Filled`, which each function uses up and gives back with more.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lwm.generation.cache import Filled, Prompt, extend, prefill
from lwm.generation.loop import BURST, begin, burst, unfinished
from lwm.generation.modality import Grammar
from lwm.generation.sampler import PLAIN, Sampling
from lwm.models.condition import Condition
from lwm.models.dream_speaker import beside
from lwm.models.dreamllm import DreamLLM

Part = Sequence[int] | np.ndarray  # ids of a text, or a picture, uint8 [R, R, 3]


class Drawing(NamedTuple):
    """How a picture is drawn. steps, guidance, method: as of `DiffusionDecoder.sample`; the paper's."""

    steps: int = 50
    guidance: float = 2.0
    method: str = "dpm"


class Bounds(NamedTuple):
    """Where a document ends at the latest. context: positions · tokens: new ones · pictures: new ones."""

    context: int
    tokens: int
    pictures: int


class Said(NamedTuple):
    """The next ids, in order; <dream_start> and the end of the document are among them."""

    ids: list[int]


class Drawn(NamedTuple):
    """A step of denoising, counted from 1. picture: uint8 [R, R, 3] after the last, else None."""

    step: int
    picture: np.ndarray | None


def write(
    model: DreamLLM,
    params: dict,
    parts: Sequence[Part],
    bounds: Bounds,
    *,
    bos: int,
    eos: int,
    text: Sampling,
    drawing: Drawing,
    seed: int,
    dreamed: bool = True,
) -> Iterator[Said | Drawn]:
    """Goes on from the parts, as `Said` in bursts and `Drawn` for each step, up to the end or to a bound.

    A dream is opened only where its picture fits as well, and as long as there may be more pictures.

    Args:
        parts: at least one position of the context is left behind them, see `positions_of`.
        dreamed: pictures among the parts stand behind queries, as in joint documents; see `positions_of`.
        seed: of all draws; equal seeds give equal documents.

    Raises:
        ValueError: a drawing that there is not, before the first picture.
    """
    dream_start, language = model.config.dream_start, params["language"]
    # With as much room as the document, so that both are read by the same programs.
    without = nothing(model, params, bos, room=bounds.context)
    filled = read(model, params, bos, parts, room=bounds.context, dreamed=dreamed)
    root, said, drawn = jax.random.key(seed), 0, 0
    while True:
        at = int(filled.positions_B[0])
        fits = bounds.context - at - _block(model)
        dreams = drawn < bounds.pictures and fits > 0
        most = min(bounds.tokens - said, fits if dreams else bounds.context - at)
        if most < 1:
            return
        grammar = Grammar(text=dream_start + dreams, stop=(eos, dream_start))
        state = begin(filled, [Prompt.of_text([bos])], grammar, new_tokens=most, seed=seed)
        state, last = state._replace(step=jnp.int32(said)), None
        while unfinished(state):
            how = {"grammar": grammar, "text": text, "vision": PLAIN, "steps": BURST}
            state, tokens_BT, _ = burst(model.speaker, language, state, **how)
            ids = [int(token) for token in tokens_BT[0] if token >= 0]
            said, last = said + len(ids), ids[-1]
            yield Said(ids)
        filled = state.filled
        if last == eos:
            return
        if last == dream_start:
            # What was said last is seen by nobody, and its slot is free.
            cache = filled.cache._replace(length=filled.cache.length - 1)
            filled, condition = dream(model, params, filled._replace(cache=cache))
            # Row 0 of the text draws from the other branch of the seed.
            key = jax.random.fold_in(jax.random.fold_in(root, 1), drawn)
            steps = model.decoder.each_step(
                params["decoder"], condition, key, **drawing._asdict(), unconditional=without
            )
            for step, shown in enumerate(steps, start=1):
                shown.block_until_ready()  # told when it is done, not when it is asked for
                yield Drawn(step, np.asarray(shown[0]) if step == drawing.steps else None)
            filled = see(model, params, filled, shown, dreamed=True)
            drawn += 1


def read(
    model: DreamLLM, params: dict, bos: int, parts: Sequence[Part], *, room: int, dreamed: bool = True
) -> Filled:
    """The beginning of a document and its parts, in a cache with room for so many positions."""
    filled = prefill(model.speaker, params["language"], [Prompt.of_text([bos])], room=room)
    for part in parts:
        if isinstance(part, np.ndarray):
            if dreamed:
                filled, _ = dream(model, params, filled)
            filled = see(model, params, filled, part[None], dreamed=dreamed)
        elif len(part):
            filled = extend(model.speaker, params["language"], filled, [Prompt.of_text(part)])
    return filled


def positions_of(model: DreamLLM, parts: Sequence[Part], *, dreamed: bool = True) -> int:
    """Positions that the beginning of a document and these parts take.

    dreamed: pictures stand behind queries, as those do that the model draws; else alone.
    """
    P, whole = model.config.vision.patches + 2, _block(model)
    own = [len(part) if not isinstance(part, np.ndarray) else whole if dreamed else P for part in parts]
    return 1 + sum(own)


def dream(model: DreamLLM, params: dict, filled: Filled) -> tuple[Filled, Condition]:
    """Reads <dream_start> and the queries in every row: what becomes of them, for the decoder, [B, Q, C].

    The logits stay those of before; Q + 1 slots must be free.
    """
    cache, positions_B, condition = _dream(model, params, filled.cache, filled.positions_B)
    return filled._replace(cache=cache, positions_B=positions_B), condition


def see(model: DreamLLM, params: dict, filled: Filled, pictures_BRRC, *, dreamed: bool) -> Filled:
    """Reads a picture in every row; dreamed: a dream is open in all of them, and closed first.

    Raises:
        UserError: the cache has no room.
    """
    marks, P = range(model.config.dream_start, model.config.dream_start + 4), model.config.vision.patches
    tokens = [*([marks[1]] if dreamed else []), marks[2], *range(P), marks[3]]
    is_vision = np.zeros(len(tokens), bool)
    is_vision[-P - 1 : -1] = True
    prompt = Prompt(np.asarray(tokens, np.int32), is_vision)
    language = beside(params["language"], _seen(model, params, pictures_BRRC))
    return extend(model.speaker, language, filled, [prompt] * len(pictures_BRRC))


def draw(
    model: DreamLLM,
    params: dict,
    texts: Sequence[Sequence[int]],
    key: jax.Array,
    *,
    bos: int,
    drawing: Drawing,
) -> jax.Array:
    """A picture behind each text, uint8 [B, R, R, 3], whether the model would open a dream there or not."""
    prompts, room = [Prompt.of_text([bos, *ids]) for ids in texts], model.config.queries + 1
    filled = prefill(model.speaker, params["language"], prompts, room=room)
    without = jax.tree.map(
        lambda x: jnp.repeat(x, len(texts), axis=0), nothing(model, params, bos, room=room)
    )
    condition = dream(model, params, filled)[1]
    how = drawing._asdict() | {"unconditional": without}
    return model.decoder.sample(params["decoder"], condition, key, **how)


def nothing(model: DreamLLM, params: dict, bos: int, *, room: int) -> Condition:
    """What stands for no condition (2207.12598): the dream of a document that only begins.

    room: positions of the cache that it is read into, Q + 1 or more.
    """
    return dream(model, params, read(model, params, bos, [], room=room))[1]


def _block(model: DreamLLM) -> int:
    """Positions of a picture that is dreamed and seen."""
    return model.config.span + 4


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def _dream(model, params, cache, positions_B):
    B, (Q, D) = len(positions_B), params["queries"].shape
    at_T = jnp.arange(Q + 1)
    tokens_BT = jnp.broadcast_to(jnp.where(at_T == 0, model.config.dream_start, at_T - 1), (B, Q + 1))
    is_vision_BT = jnp.broadcast_to(at_T > 0, (B, Q + 1))
    language = beside(params["language"], jnp.broadcast_to(params["queries"], (B, Q, D)))
    positions_BT = positions_B[:, None] + at_T
    hidden_BTD, cache = model.speaker.states(language, tokens_BT, is_vision_BT, positions_BT, cache)
    return cache, positions_B + Q + 1, model.dreamed(params, hidden_BTD[:, 1:])


@functools.partial(jax.jit, static_argnames="model")
def _seen(model, params, pictures_BRRC):
    return model.seen(params, pictures_BRRC[:, None])
