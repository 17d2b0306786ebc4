"""FLOPs of a step of MultiModel by formula, held against what the compiler counts before it compiles."""

import dataclasses

import jax
import pytest

from lwm.compilation.task_flops import task_flops
from lwm.models import multimodel_body
from lwm.models.multimodel import SIZES, MultiModel, MultiModelConfig, example

# Wide enough for products to be nearly all of it.
WIDE = SIZES["tiny"] | dict(width=512, expert_ffn=512, vocab_size=512, resolution=32, samples=4096)
WIDE |= dict(source_length=32, target_length=24, audio_channels=64, label_smoothing=0.0)
LABELS = dict(tasks=("labels",), kinds=("classify",), resolution=64)


@pytest.fixture
def without_loops(monkeypatch):
    """The body of a loop is counted once, however often it runs."""
    scan = multimodel_body.nn.scan

    def unrolled(block, length, **rest):
        return scan(block, length=length, unroll=length, **rest)

    monkeypatch.setattr(multimodel_body.nn, "scan", unrolled)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"without": "experts"},
        {"without": "convolution", "audio_halves": False},
        {"wiring": "code"},
        LABELS,
    ],
    ids=str,
)
def test_formula_is_within_two_per_cent_of_the_compiler(without_loops, changes):
    config = MultiModelConfig(**WIDE | changes)
    model = MultiModel(config)
    batch = jax.eval_shape(lambda: example(config, 2))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), {}))
    gradient = jax.value_and_grad(lambda params, batch: model.loss(params, batch, None)[0])
    counted = jax.jit(gradient).lower(params, batch).cost_analysis()["flops"]
    # Without noise an expert has a place for every token.
    config = dataclasses.replace(config, capacity_factor=config.evaluation_capacity)
    found = task_flops(config, dict.fromkeys(batch, 2), 1)
    assert found.products + found.attention == pytest.approx(counted, rel=0.02)


def test_rows_add_up_and_devices_share_them():
    config = MultiModelConfig(**WIDE)
    one, both = task_flops(config, {"classify": 8}, 1), task_flops(config, {"classify": 8, "translate": 8}, 4)
    alone = task_flops(config, {"translate": 8}, 4)
    assert both.nets == one.nets + alone.nets and both.attention == alone.attention
    assert task_flops(config, {"translate": 16}, 8).products == 2 * alone.products
