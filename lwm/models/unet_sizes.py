"""The shape of a diffusion U-Net and of the decoder around it, and the sizes there are. Plain Python."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from lwm.limits import COUNT, SHARE, SIZE, Limits, Rules, check
from lwm.models.sizes import DTYPES

PREDICTIONS = ("epsilon", "v")
SCHEDULES = ("cosine", "linear", "scaled_linear")


def _levels(config: "UNetConfig") -> Iterator[str]:
    levels, attention = list(config.multipliers), list(config.attention)
    if not levels:
        yield "multipliers: [] has no level; give numbers from 1 up"
        return
    if len(attention) != len(levels):
        yield f"attention: {attention} for multipliers = {levels}; give one for each of {len(levels)} levels"
        return
    for level, (multiplier, attends) in enumerate(zip(levels, attention, strict=True)):
        width, last = config.channels * multiplier, level + 1 == len(levels)
        if (attends or last) and width % config.head_dim:
            found = f"{config.head_dim} does not divide the {width} channels of level {level}"
            yield f"head_dim: {found}; choose a divisor"


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """A U-Net over pictures or latents, conditioned on a sequence.

    Attributes:
        image_channels: of what is denoised, 3 for pixels, 4 for the latents of Stable Diffusion's VAE.
        channels: of the first level, before `multipliers`.
        multipliers: channels of each level in units of `channels`; each level halves the grid of the one
            before.
        attention: for each level, whether a transformer follows each of its residual blocks. The middle, on
            the grid of the last level, always has one.
        blocks: residual blocks of a level on the way down; on the way up it has one more.
        head_dim: H of all attention.
        condition_width: C, of the sequence that cross-attention looks at.
        transformer_layers: blocks of each transformer.
        groups: of GroupNorm.
        patch: pixels along each side that are folded into channels before the first convolution. 1 is the
            published network; small sizes fold, because a CPU is worst at few channels on large grids.
        dtype: of the computation; parameters are float32.
        remat: residual blocks and transformers keep only their inputs for the backward pass.
        attention_block: most positions in a block of scores.

    Raises:
        UserError: a field that no network can be built from.
    """

    image_channels: Annotated[int, SIZE]
    channels: Annotated[int, SIZE]
    multipliers: tuple[Annotated[int, SIZE], ...]
    attention: tuple[bool, ...]
    blocks: Annotated[int, SIZE]
    head_dim: Annotated[int, SIZE]
    condition_width: Annotated[int, SIZE]
    transformer_layers: Annotated[int, SIZE] = 1
    groups: Annotated[int, Limits(least=1, divides="channels")] = 32
    patch: Annotated[int, SIZE] = 1
    dtype: Annotated[str, Limits(choices=DTYPES)] = "float32"
    remat: bool = False
    attention_block: Annotated[int, SIZE] = 512

    RULES: ClassVar[Rules] = (_levels,)

    def __post_init__(self):
        for field in ("multipliers", "attention"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        check(self)

    @property
    def factor(self) -> int:
        """What the sides of a picture have to be multiples of."""
        return self.patch * 2 ** (len(self.multipliers) - 1)


def _grid(config: "DecoderConfig") -> Iterator[str]:
    if config.resolution % config.factor:
        yield f"resolution: {config.resolution} is no multiple of {config.factor}; use one that is"


def _reads(config: "DecoderConfig") -> Iterator[str]:
    """A text encoder has layers, and heads that its width can be cut into."""
    if not config.text_vocab_size:
        return
    for field in ("text_layers", "text_ffn", "text_length"):
        if getattr(config, field) < 1:
            yield f"{field}: {getattr(config, field)} is too small; use 1 or more, or text_vocab_size = 0"
    if config.condition_width % config.text_heads:
        whole = f"condition_width = {config.condition_width}"
        yield f"text_heads: {config.text_heads} does not divide {whole}; choose a divisor"


@dataclasses.dataclass(frozen=True)
class DecoderConfig(UNetConfig):
    """A U-Net with its diffusion, its unconditional sequence and, if wanted, a text encoder of its own.

    Attributes:
        resolution: pixels, or latents, along each side.
        latents: batches hold float "latents" rather than uint8 "images".
        schedule, times: of the noise, see `lwm.ops.diffusion`.
        prediction: "epsilon" or "v".
        gamma: of min-SNR weighting; 0 = none.
        noise_offset, input_perturbation: of `lwm.ops.diffusion.draw_noised`.
        drop_rate: share of the examples that are trained without their condition.
        unconditional_length: vectors of the learned sequence that stands for no condition; 0 = it is given.
        text_vocab_size: ids of the text encoder; 0 = there is none, and conditions are given as vectors. Its
            width is `condition_width`.
        text_layers, text_heads, text_ffn, text_length: of the text encoder; its longest text.
    """

    resolution: Annotated[int, SIZE] = 32
    latents: bool = False
    schedule: Annotated[str, Limits(choices=SCHEDULES)] = "cosine"
    times: Annotated[int, SIZE] = 1000
    prediction: Annotated[str, Limits(choices=PREDICTIONS)] = "v"
    gamma: Annotated[float, COUNT] = 5.0
    noise_offset: Annotated[float, COUNT] = 0.0
    input_perturbation: Annotated[float, COUNT] = 0.0
    drop_rate: Annotated[float, SHARE] = 0.1
    unconditional_length: Annotated[int, COUNT] = 1
    text_vocab_size: Annotated[int, COUNT] = 0
    text_layers: Annotated[int, COUNT] = 0
    text_heads: Annotated[int, SIZE] = 1
    text_ffn: Annotated[int, COUNT] = 0
    text_length: Annotated[int, COUNT] = 0

    RULES: ClassVar[Rules] = (*UNetConfig.RULES, _grid, _reads)


SIZES = {
    # For tests and for looking at shapes.
    "debug": dict(
        image_channels=3,
        channels=8,
        multipliers=(1, 2),
        attention=(False, True),
        blocks=1,
        head_dim=8,
        condition_width=8,
        groups=4,
        resolution=8,
        text_vocab_size=16,
        text_layers=1,
        text_heads=2,
        text_ffn=16,
        text_length=8,
    ),
    # For two CPU cores; reads bytes.
    "tiny": dict(
        image_channels=3,
        channels=32,
        multipliers=(1, 2),
        attention=(False, True),
        blocks=1,
        head_dim=16,
        condition_width=128,
        groups=8,
        patch=2,
        text_vocab_size=259,
        text_layers=2,
        text_heads=4,
        text_ffn=256,
        text_length=64,
    ),
    # Stable Diffusion 2.1 base (2112.10752; stabilityai/stable-diffusion-2-1-base): 512 pixels are 64 x 64
    # latents of four numbers; text comes from an encoder that is not part of it, 1024 wide.
    "sd21": dict(
        image_channels=4,
        channels=320,
        multipliers=(1, 2, 4, 4),
        attention=(True, True, True, False),
        blocks=2,
        head_dim=64,
        condition_width=1024,
        resolution=64,
        latents=True,
        schedule="scaled_linear",
        prediction="epsilon",
        unconditional_length=0,
        dtype="bfloat16",
        remat=True,
    ),
}
