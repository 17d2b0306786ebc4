"""The debug transformer with random weights, large enough that its logits differ."""

import jax
import numpy as np
import pytest

from lwm.generation.cache import Prompt
from lwm.models.transformer import LWM, SIZES, TransformerConfig


@pytest.fixture(scope="session")
def debug_model():
    """(model, params): vocabulary of bytes, 64 codes."""
    model = LWM(TransformerConfig(**SIZES["debug"]))
    batch = {name: np.zeros((1, 8), np.int32) for name in ("tokens", "positions", "segments")}
    params = jax.jit(model.init)(jax.random.key(0), batch | {"is_vision": np.zeros((1, 8), bool)})
    return model, jax.tree.map(lambda w: w * 4 if w.ndim > 1 else w, params)


@pytest.fixture(scope="session")
def full_logits(debug_model):
    """`full_logits(prompt)`: both heads after the last token of a prompt, without a cache."""
    model, params = debug_model
    forward = jax.jit(model.logits)

    def last(prompt: Prompt, length=128):
        T = len(prompt.tokens)
        batch = {
            "tokens": np.pad(prompt.tokens, (0, length - T))[None],
            "is_vision": np.pad(prompt.is_vision, (0, length - T))[None],
            "positions": np.arange(length, dtype=np.int32)[None],
            "segments": (np.arange(length, dtype=np.int32) < T).astype(np.int32)[None],
        }
        text_BTV, vision_BTV = forward(params, batch)
        return text_BTV[0, T - 1], vision_BTV[0, T - 1]

    return last
