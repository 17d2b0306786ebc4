"""A clip that is watched once, then text from a cache: the logits of the whole forward pass, on any mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.cache import Prompt, extend, prefill
from lwm.generation.loop import continue_text
from lwm.generation.sampler import Sampling
from lwm.parallel.sharding import shardings

LENGTH, FRAMES = 16, 5
STARTS = np.array([[0, 0, 3, 7, -1], [2, 5, 5, 14, 40]], np.int32)  # 40 is beyond the text, -1 is padding


@pytest.fixture(scope="module")
def case(cross):
    """(model, params, batch): text of two rows, whose frames come in at STARTS."""
    model = cross.model(remat="nothing_saveable", layers=2, cross_layers=2)
    rows = [[cross.example(model.config, seed, LENGTH, FRAMES)] for seed in (0, 1)]
    batch = cross.pack(model.config, rows, LENGTH, FRAMES)
    batch["frame_ids"][STARTS < 0] = 0
    visible = (STARTS[:, None] <= np.arange(LENGTH)[:, None]) & (STARTS[:, None] >= 0)
    batch["media"] = visible.sum(axis=2).astype(np.int32)
    return model, cross.params(model, batch), batch


@pytest.fixture(scope="module")
def watched(case):
    model, params, batch = case
    return model.watch(params, batch["frames"], batch["frame_ids"], STARTS)


@pytest.fixture(scope="module")
def whole(cross, case):
    """Logits of the dense reference."""
    model, params, batch = case
    return np.asarray(cross.jit(cross.dense(model).logits)(params, batch))


@pytest.mark.parametrize("step", [1, 12])
def test_cached_is_whole(cross, case, watched, whole, step):
    model, _, batch = case
    decode, cache, logits = cross.jit(model.decode), model.init_cache(2, 2 * LENGTH), []
    for start in range(0, LENGTH, step):
        part = slice(start, start + step)
        text, vision, cache = decode(
            watched, *(batch[name][:, part] for name in ("tokens", "is_vision", "positions")), cache
        )
        assert vision is None
        logits.append(text)
    np.testing.assert_allclose(np.concatenate(logits, axis=1), whole, atol=1e-5, rtol=1e-4)


def test_without_a_clip_it_sees_nothing(cross, case):
    model, params, batch = case
    blind = batch | {"frame_ids": np.zeros_like(batch["frame_ids"])}
    expected = cross.jit(model.logits)(params, blind)[0]
    inputs = (batch[name] for name in ("tokens", "is_vision", "positions"))
    logits, _, _ = cross.jit(model.decode)(params, *inputs, model.init_cache(2, LENGTH))
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=1e-4)


MESHES = [pytest.param(axes, marks=pytest.mark.slow) for axes in (dict(seq=4), dict(data=2, tensor=2, seq=2))]


@pytest.mark.parametrize(
    "axes",
    [dict(seq=1), *MESHES],
    ids=str,
)
def test_prompts_and_what_follows_on_a_mesh(cross, case, watched, whole, mesh_of, axes):
    """Rows of unequal length, filled in two chunks cut over "seq", and more text behind them."""
    model, params, batch = case
    mesh = mesh_of(**axes)
    tokens, cuts = batch["tokens"], (LENGTH - 3, LENGTH - 5)
    prompts = [Prompt.of_text(row[:cut]) for row, cut in zip(tokens, cuts, strict=True)]
    more = [Prompt.of_text(row[cut : cut + 2]) for row, cut in zip(tokens, cuts, strict=True)]
    placed = jax.device_put(params, shardings(model.SERVING_RULES, params, mesh))
    with jax.set_mesh(mesh):
        clip = model.watch(placed, batch["frames"], batch["frame_ids"], STARTS)
        assert shardings(model.SERVING_RULES, clip, mesh)
        filled = prefill(model, clip, prompts, room=8, chunk=4)
        for rows in (prompts, more):
            lasts = np.array([len(x.tokens) for x in rows]) + (0 if rows is prompts else cuts) - 1
            np.testing.assert_allclose(
                filled.text_logits_BV, whole[[0, 1], lasts], atol=1e-4, rtol=1e-4, err_msg=str(axes)
            )
            if rows is prompts:
                filled = extend(model, clip, filled, more, chunk=4)


def test_greedy_tokens_are_those_of_the_whole_forward_pass(cross, case, watched):
    model, params, batch = case
    dense, taken = cross.jit(cross.dense(model).logits), 10
    prompts = [Prompt.of_text(row[:taken]) for row in batch["tokens"]]
    new = continue_text(
        model, watched, prompts, new_tokens=5, sampling=Sampling(temperature=0.0), seed=0, vocab_size=40
    )
    tokens = batch["tokens"].copy()
    for t in range(taken, taken + 5):
        logits = dense(params, batch | {"tokens": tokens})[:, t - 1]
        assert [row[t - taken] for row in new] == jnp.argmax(logits, axis=-1).tolist()
        tokens[:, t] = jnp.argmax(logits, axis=-1)


def test_clips_that_do_not_fit(case, watched):
    model, params, batch = case
    with pytest.raises(ValueError, match=r"starts_BI: shape \(2, 4\); needs \(2, 5\)"):
        model.watch(params, batch["frames"], batch["frame_ids"], STARTS[:, :4])
    with pytest.raises(ValueError, match=r"needs \[2, one or more\]"):
        model.watch(params, batch["frames"][:, :0], batch["frame_ids"][:, :0], STARTS[:, :0])
    with pytest.raises(ValueError, match="clip: 2 rows were watched, but 1 rows of text come"):
        prefill(model, watched, [Prompt.of_text([1, 2])], room=1)
