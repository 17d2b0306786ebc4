"""FLOPs of training from shapes alone: before a model is built, and without JAX.

Here is what all formulas are made of, and transformers; beside this file are `vqgan_flops` and, for DreamLLM,
`unet_flops` and `dream_flops`. `lwm.compilation` adds what a MultiModel takes (`task_flops`) and what a
transformer sees of clips (`seen_flops`), and holds all of them against the compiler's count.

A multiply-add is two FLOPs forward; two more make the gradient of its input and two that of its weight,
where anybody wants them (`price`). Embeddings are only read, and what is done to each number by itself, norms
and softmaxes, is left out: of wide layers it is below two per cent.
"""

from typing import NamedTuple

from lwm.models.sizes import TransformerConfig, count_parameters


class Forward(NamedTuple):
    """Multiply-adds of a token in a forward pass.

    Attributes:
        layers: with weights of layers.
        heads: with heads of losses that weigh.
        attention: L · T · N · H, scores and values of rows of T tokens, half of them under a causal mask.
    """

    layers: int
    heads: int
    attention: int


def forward(config: TransformerConfig, length: int) -> Forward:
    """Of a token in rows of `length`."""
    count = count_parameters(config)
    words = config.vocab_size * (config.text_weight > 0)
    codes = config.vision_vocab_size * (config.vision_weight > 0)
    return Forward(
        layers=count["attention"] + count["feed_forward"],
        heads=config.width * (words + codes),
        attention=config.layers * length * config.heads * config.head_dim,
    )


def training_flops(config: TransformerConfig, tokens: float, length: int) -> float:
    """Forward and backward on `tokens` in rows of `length`, nothing computed twice (2204.02311, appendix B).

    6 · L · T · N · H a token for attention: two products, each of 2 · T · N · H forward, half of it masked.
    """
    return 6.0 * tokens * sum(forward(config, length))


def recomputed_flops(config: TransformerConfig, tokens: float, own: Forward) -> float:
    """What `remat` and `loss_chunk` compute twice in a step on `tokens`.

    A layer counts as a whole, without its attention if `remat` keeps that. Scores, which attention by blocks
    makes once more on its way back, are not counted again.
    """
    again = own.heads if config.loss_chunk else 0
    if config.remat != "none":
        again += own.layers + (0 if config.remat.startswith("attention") else own.attention)
    return 2.0 * tokens * again


def body_parameters(config: TransformerConfig) -> int:
    """Parameters without the tables of words and codes: the P of 2001.08361, section 2.1."""
    count = count_parameters(config)
    return count["attention"] + count["feed_forward"] + count["norms"]


def context_ratio(width: int, short: int, long: int) -> float:
    """What a token costs in rows of `long`, in units of one in rows of `short`: (6 h + s2) / (6 h + s1).

    Of a plain layer of width h, whose feed-forward layer is four times as wide, without a causal mask:
    24 h^2 + 4 s h a token (Ring Attention, 2310.01889, appendix on training FLOPs).
    """
    return (6 * width + long) / (6 * width + short)


def price(weights: bool, inputs: bool) -> int:
    """FLOPs of a multiply-add in training: are its weights trained, does anything before it want a gradient?

    Of a product of two inputs, scores or values of attention, both are inputs: give `inputs` twice.
    """
    return 2 + 2 * weights + 2 * inputs


def convolution(side: int, before: int, after: int, kernel: int = 3, stride: int = 1) -> int:
    """Multiply-adds on a square picture: from `before` channels to `after`, padded to side / stride.

    What meets the padding is not counted, which is zero: of 3 x 3 on a grid of 16 x 16 that is 8 %.
    """
    grid = -(-side // stride)
    padding = max((grid - 1) * stride + kernel - side, 0) // 2
    starts = [index * stride - padding for index in range(grid)]
    taps = sum(min(start + kernel, side) - max(start, 0) for start in starts)
    return before * after * taps * taps


def residual(side: int, before: int, after: int) -> int:
    """Multiply-adds of a residual block of two 3 x 3 convolutions, and of its shortcut if channels change."""
    shortcut = side * side * before * after if before != after else 0
    return convolution(side, before, after) + convolution(side, after, after) + shortcut
