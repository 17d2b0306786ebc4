"""The decode loop: one token at a time from a filled cache, compiled once, deterministic in its keys."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lwm.generation.cache import Filled, Prompt, prefill
from lwm.generation.sampler import Sampling, choose, guide


@functools.partial(jax.jit, static_argnames=("model", "sampling", "vision", "allowed", "stop"))
def decode_loop(
    model,
    params,
    filled: Filled,
    forced_T,
    keys_B,
    *,
    sampling: Sampling,
    vision: bool,
    allowed: int,
    stop=(),
):
    """Up to T new tokens for each row, int32 [B, T]; -1 after a row's stop token.

    filled: B rows; or, when `sampling.guidance` is not 1, 2B rows with the conditional prompts first and the
    unconditional ones after: both then receive the same sampled token. vision: which head speaks. Only ids
    below `allowed` are sampled. forced_T: int32, the token that every row must take at a step, or -1.
    keys_B: a typed PRNG key for each row. stop: ids after which a row is finished.
    """
    T, B, guided = forced_T.shape[0], keys_B.shape[0], sampling.guidance != 1
    rows = 2 * B if guided else B

    def pick(logits_BV, step):
        logits_BV = logits_BV[:, :allowed]
        if guided:
            logits_BV = guide(logits_BV[:B], logits_BV[B:], sampling.guidance)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys_B, step)
        return jnp.where(forced_T[step] >= 0, forced_T[step], choose(logits_BV, keys, sampling))

    def finished(token_B, done_B):
        return done_B | jnp.isin(token_B, jnp.asarray(stop, jnp.int32))

    def unfinished(state):
        step, _, done_B, _, _ = state
        return (step < T) & ~jnp.all(done_B)

    def advance(state):
        step, token_B, done_B, new_BT, cache = state
        tokens = jnp.tile(token_B, rows // B)[:, None]
        positions = (filled.positions_B + step - 1)[:, None]
        text, vision_logits, cache = model.decode(
            params, tokens, jnp.full((rows, 1), vision), positions, cache
        )
        token_B = pick((vision_logits if vision else text)[:, -1], step)
        new_BT = new_BT.at[:, step].set(jnp.where(done_B, -1, token_B))
        return step + 1, token_B, finished(token_B, done_B), new_BT, cache

    token_B = pick(filled.vision_logits_BV if vision else filled.text_logits_BV, 0)
    new_BT = jnp.full((B, T), -1, jnp.int32).at[:, 0].set(token_B)
    state = (jnp.int32(1), token_B, finished(token_B, jnp.zeros(B, bool)), new_BT, filled.cache)
    return jax.lax.while_loop(unfinished, advance, state)[3]


def continue_text(
    model,
    params,
    prompts: Sequence[Prompt],
    *,
    new_tokens: int,
    sampling: Sampling,
    seed: int,
    vocab_size: int,
    stop: tuple[int, ...] = (),
    chunk: int = 512,
) -> list[list[int]]:
    """At most `new_tokens` text ids after each prompt; a row ends before its first id in `stop`.

    Row b draws from `fold_in(key(seed), b)`. vocab_size: ids of the tokenizer, which may be fewer than the
    model's table holds.
    """
    filled = prefill(model, params, prompts, room=new_tokens, chunk=chunk)
    new_BT = decode_loop(
        model,
        params,
        filled,
        jnp.full(new_tokens, -1, jnp.int32),
        row_keys(seed, len(prompts)),
        sampling=sampling,
        vision=False,
        allowed=vocab_size,
        stop=stop,
    )
    return [[int(token) for token in row if token >= 0 and token not in stop] for row in np.asarray(new_BT)]


def row_keys(seed: int, B: int):
    """Typed keys [B], the same for a row whatever the size of the batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(B))
