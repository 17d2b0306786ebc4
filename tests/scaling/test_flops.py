"""FLOPs from a shape, against the count that is held against the compiler's, and against a layer by hand."""

from types import SimpleNamespace

import pytest

from lwm.compilation.flops import train_flops
from lwm.models.sizes import SIZES, TransformerConfig, count_parameters
from lwm.scaling.flops import body_parameters, context_ratio, training_flops


@pytest.mark.parametrize("size", ["debug", "7b"])
def test_count_is_that_of_the_compilation_report(size):
    """tests/compilation/test_flops.py holds the latter against the compiler."""
    config = TransformerConfig(**SIZES[size], remat="none")
    stage = SimpleNamespace(rows=3, context_length=512, of_clips=False, of_tasks=False)
    reported = train_flops(SimpleNamespace(model=SimpleNamespace(config=config), stage=stage))
    assert training_flops(config, 3 * 512, 512) == pytest.approx(reported.model)


def test_body_and_tables_are_all_parameters():
    config = TransformerConfig(**SIZES["debug"])
    tables = 2 * config.width * (config.vocab_size + config.vision_vocab_size)
    assert body_parameters(config) + tables == count_parameters(config)["total"]


def test_ratio_is_that_of_a_layer_counted_by_hand():
    def layer(h, s):
        return (2 * s * 4 * h * h + 2 * s * 8 * h * h + 2 * 2 * s * s * h) / s  # projections, 4h wide, scores

    assert context_ratio(4096, 4096, 2**20) == pytest.approx(layer(4096, 2**20) / layer(4096, 4096))
    assert context_ratio(4096, 4096, 4096) == 1
