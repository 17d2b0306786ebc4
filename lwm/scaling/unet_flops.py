"""FLOPs of a diffusion U-Net and of a text encoder by formula (lwm/models/unet.py, text_encoder.py).

Multiply-adds, T places of a picture on a level of width D, S vectors of C numbers as a condition:

    residual block    two 3 x 3 convolutions, a shortcut if channels change, 4 · channels · D for the time
    transformer       2 T D²; in each block of it 4 T D² and 2 T² D for attention of places to each other,
                      2 T D² + 2 S C D and 2 T S D for attention to the condition, 12 T D² to feed forward

Gradients go back from the picture to where the condition was looked at first. What comes before has one only
if the U-Net itself is trained; the weights of a frozen one have none.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lwm.models.unet_sizes import DecoderConfig, UNetConfig
from lwm.scaling.flops import convolution, price, residual


class Part(NamedTuple):
    """A stretch of the way through the network, in multiply-adds of one picture.

    Attributes:
        products: with weights. scores: of attention, without. seen: of the condition, to keys and values.
        block: inside a block of which `remat` keeps nothing.
    """

    products: int
    scores: int = 0
    seen: int = 0
    block: bool = True


def unet_flops(
    config: DecoderConfig, pictures: int, length: int, *, trained: bool, conditioned: bool
) -> tuple[float, float]:
    """(FLOPs, those that `remat` makes once more) of a training step.

    Args:
        length: vectors of a condition.
        trained: whether the weights of the U-Net are; conditioned: whether the condition gets a gradient.
    """
    first, *rest = _parts(config, length)
    flops, again, looked = price(trained, False) * first.products, 0, False
    for part in rest:
        looked |= part.seen > 0
        back = trained or (conditioned and looked)
        flops += price(trained, back) * part.products + price(back, back) * part.scores
        flops += price(trained, conditioned) * part.seen
        if config.remat and part.block and back:
            again += 2 * (part.products + part.scores + part.seen)
    return float(pictures * flops), float(pictures * again)


def text_flops(config: DecoderConfig, texts: int, *, trained: bool) -> float:
    """Of a training step of the text encoder of a decoder, on texts as long as its longest."""
    S, C, F = config.text_length, config.condition_width, config.text_ffn
    products, scores = S * (4 * C * C + 3 * C * F), 2 * S * S * C
    layer = price(trained, trained) * (products + scores)
    return float(texts * config.text_layers * layer)


def _parts(config: DecoderConfig, length: int) -> Iterator[Part]:
    """The way of a picture; the first part reads what wants no gradient."""
    side, channels = config.resolution // config.patch, config.channels
    widths = [channels * multiplier for multiplier in config.multipliers]
    folded, last = config.image_channels * config.patch**2, len(widths) - 1
    yield Part(convolution(side, folded, channels), block=False)
    yield Part(4 * channels * channels + 16 * channels * channels, block=False)  # the time
    now, skips = channels, [channels]
    for level, width in enumerate(widths):
        for _ in range(config.blocks):
            yield from _block(config, side, now, width, length, config.attention[level])
            now = width
            skips.append(now)
        if level < last:
            yield Part(convolution(side, width, width, stride=2), block=False)
            side //= 2
            skips.append(width)
    yield from _block(config, side, now, now, length, True)
    yield from _block(config, side, now, now, length, False)
    for level in reversed(range(len(widths))):
        for _ in range(config.blocks + 1):
            yield from _block(config, side, now + skips.pop(), widths[level], length, config.attention[level])
            now = widths[level]
        if level:
            side *= 2
            yield Part(convolution(side, now, now), block=False)
    yield Part(convolution(side, now, folded), block=False)


def _block(
    config: UNetConfig, side: int, before: int, after: int, length: int, attends: bool
) -> Iterator[Part]:
    """A residual block and, where the level attends, a transformer."""
    yield Part(residual(side, before, after) + 4 * config.channels * after)
    if attends:
        T, S, D, C = side * side, length, after, config.condition_width
        yield Part(T * D * D)
        for _ in range(config.transformer_layers):
            yield Part((4 + 1) * T * D * D, scores=2 * T * T * D)  # and the queries that look next
            yield Part((1 + 12) * T * D * D, scores=2 * T * S * D, seen=2 * S * C * D)
        yield Part(T * D * D)
