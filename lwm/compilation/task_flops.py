"""FLOPs of a training step of MultiModel by formula, from shapes alone.

Multiply-adds of a forward pass; positions are those of encoded inputs (S of a row) or of targets (T). Each is
six FLOPs with the backward pass; four where pixels or a spectrogram are read, which need no gradient.

    step of a block     D² + taps · D;                  a block has four steps
    encoder, S          six blocks; gates 2 D E
    attention block, T  two steps of 5 taps; six D² for queries, keys, values and what they find; 2 D² a
                        position of the source for its keys and values; scores and values 2 T D + 2 S D
    decoder, T          five attention blocks; six blocks; 2 D² + 10 D where targets join; gates; head D V
    experts             2 D F for every place of every expert, taken or not: those are what is computed
    modality nets       their convolutions

Texts and sources are counted as long as they are filled up to, and so are rows of weight 0.
"""

from collections.abc import Mapping
from typing import NamedTuple

from lwm.models.conv_blocks import STEPS
from lwm.models.multimodel_sizes import DECODED, MultiModelConfig
from lwm.ops.moe_dispatch import capacity


class TaskFlops(NamedTuple):
    """Of one optimizer step on all devices. nets: of modalities, the head among them. attention: scores."""

    nets: float
    body: float
    experts: float
    attention: float

    @property
    def products(self) -> float:
        return self.nets + self.body + self.experts


def task_flops(config: MultiModelConfig, rows: Mapping[str, int], ways: int) -> TaskFlops:
    """Of a step with so many rows of each kind, filler among them, cut over `ways` devices."""
    D, T = config.width, config.target_length
    sources = {kind: _positions(config, kind) for kind in rows}
    decoded = sum(count for kind, count in rows.items() if kind in DECODED)
    longest = max((sources[kind] for kind in rows if kind in DECODED), default=0)
    read, written = sum(count * sources[kind] for kind, count in rows.items()), decoded * T
    nets = 6 * written * D * config.vocab_size
    nets += sum(count * _net(config, kind) for kind, count in rows.items())
    taps = [1 if config.without == "convolution" else taps for taps, _ in STEPS[config.wiring]]
    block = sum(D * D + own * D for own in taps)
    five = 1 if config.without == "convolution" else 5
    attending = 2 * (D * D + five * D) + 6 * D * D
    body = read * 6 * block + written * (6 * block + 5 * attending + 2 * D * D + five * 2 * D)
    body += 5 * decoded * longest * 2 * D * D
    scores = 5 * decoded * (2 * T * T * D + 2 * T * longest * D)
    mixtures = [own for own in (read, written) if own]
    if config.without == "experts":
        experts = sum(own * 2 * D * config.top_k * config.expert_ffn for own in mixtures)
    else:
        body += sum(own * 2 * D * config.experts for own in mixtures)
        experts = sum(_places(config, own, ways) * 2 * D * config.expert_ffn for own in mixtures)
    return TaskFlops(float(nets), 6.0 * body, 6.0 * experts, 6.0 * scores)


def _places(config: MultiModelConfig, tokens: int, ways: int) -> int:
    own = capacity(tokens // ways, config.experts, config.top_k, config.capacity_factor)
    return ways * config.experts * own


def _positions(config: MultiModelConfig, kind: str) -> int:
    """S of a row."""
    if kind == "translate":
        return config.source_length
    if kind == "speech":
        return _halved(config.samples // config.hop, config.audio_blocks)
    return _halved(config.resolution, 4) ** 2


def _net(config: MultiModelConfig, kind: str) -> float:
    """FLOPs of the nets of a row's input and of its label."""
    if kind == "translate":
        return 0.0
    if kind == "speech":
        return _audio(config)
    D, side = config.width, _halved(config.resolution, 1)
    first, second = min(32, D), min(64, D)
    flops = side * side * (4 * 27 * first + 6 * 9 * first * second)
    before = second
    for after in (min(128, D), min(256, D), D):
        flops += 6 * _downsample(side, side, (2, 2), before, (after, after))
        side, before = _halved(side, 1), after
    return flops + (6 * _label(config, side) if kind == "classify" else 0)


def _audio(config: MultiModelConfig) -> float:
    high, wide = config.samples // config.hop, config.window // 2 + 1
    before = min(config.audio_channels, config.width)
    flops, stride = 4 * high * wide * 9 * before, (2, 2 if config.audio_halves else 1)
    for index in range(config.audio_blocks):
        after = min(config.audio_channels * 2**index, config.width)
        flops += 6 * _downsample(high, wide, stride, before, (after, after))
        high, wide, before = _halved(high, 1), _halved(wide, stride[1] - 1), after
    return flops + 6 * high * wide * before * config.width


def _label(config: MultiModelConfig, side: int) -> float:
    D, half = config.width, _halved(side, 1)
    last = 5 * D // 4
    inner = 9 * last + last * 2 * D + 9 * 2 * D + 2 * D * (5 * D // 2)
    first = _downsample(side, side, (2, 2), D, (D, last))
    return first + half * half * inner + 5 * D // 2 * config.classes


def _downsample(high: int, wide: int, stride: tuple[int, int], before: int, after: tuple[int, int]) -> float:
    first, last = after
    inner = high * wide * (9 * before + before * first + 9 * first + first * last)
    return inner + -(-high // stride[0]) * -(-wide // stride[1]) * before * last


def _halved(size: int, times: int) -> int:
    for _ in range(times):
        size = -(-size // 2)
    return size
