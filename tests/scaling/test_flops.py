"""FLOPs from a shape: of a layer and of a convolution by hand, and of what a step computes twice."""

import pytest

from lwm.models.sizes import SIZES, TransformerConfig, count_parameters
from lwm.scaling.flops import (
    body_parameters,
    context_ratio,
    convolution,
    forward,
    recomputed_flops,
    training_flops,
)


def test_a_token_takes_all_products_and_half_of_the_scores():
    """tests/compilation/test_flops.py holds the same against the compiler."""
    config = TransformerConfig(**SIZES["debug"], vision_weight=0.0)
    D, F, N, K, H, V, L, T = 32, 64, 4, 2, 8, 259, 2, 512
    layer = D * N * H + 2 * D * K * H + N * H * D + 3 * D * F + 2 * T * N * H / 2
    assert training_flops(config, 3 * T, T) == 6 * 3 * T * (L * layer + D * V)


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"remat": "none"}, ()),
        ({}, ("layers", "attention")),
        ({"remat": "attention_saveable", "loss_chunk": 8}, ("layers", "heads")),
    ],
    ids=["kept", "layers", "heads"],
)
def test_what_is_not_kept_is_made_again(fields, parts):
    config = TransformerConfig(**SIZES["debug"] | fields)
    own = forward(config, 512)
    assert recomputed_flops(config, 7, own) == 2 * 7 * sum(getattr(own, part) for part in parts)


@pytest.mark.parametrize(
    ("side", "kernel", "stride"), [(8, 3, 1), (8, 3, 2), (8, 4, 2), (5, 4, 1), (8, 1, 1)]
)
def test_a_convolution_takes_what_lies_inside_the_picture(side, kernel, stride):
    outputs = range(-(-side // stride))
    padding = max((len(outputs) - 1) * stride + kernel - side, 0) // 2
    inside = sum(0 <= at * stride - padding + tap < side for at in outputs for tap in range(kernel))
    assert convolution(side, 3, 5, kernel, stride) == 3 * 5 * inside**2


def test_body_and_tables_are_all_parameters():
    config = TransformerConfig(**SIZES["debug"])
    tables = 2 * config.width * (config.vocab_size + config.vision_vocab_size)
    assert body_parameters(config) + tables == count_parameters(config)["total"]


def test_ratio_is_that_of_a_layer_counted_by_hand():
    def layer(h, s):
        return (2 * s * 4 * h * h + 2 * s * 8 * h * h + 2 * 2 * s * s * h) / s  # projections, 4h wide, scores

    assert context_ratio(4096, 4096, 2**20) == pytest.approx(layer(4096, 2**20) / layer(4096, 4096))
    assert context_ratio(4096, 4096, 4096) == 1
