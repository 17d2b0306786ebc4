"""The shape of a diffusion U-Net and of the decoder around it, and the sizes there are. Plain Python."""

import dataclasses

from lwm.errors import UserError
from lwm.models.sizes import DTYPES

PREDICTIONS = ("epsilon", "v")
SCHEDULES = ("cosine", "linear", "scaled_linear")


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

    image_channels: int
    channels: int
    multipliers: tuple[int, ...]
    attention: tuple[bool, ...]
    blocks: int
    head_dim: int
    condition_width: int
    transformer_layers: int = 1
    groups: int = 32
    patch: int = 1
    dtype: str = "float32"
    remat: bool = False
    attention_block: int = 512

    def __post_init__(self):
        for field in ("multipliers", "attention"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        for field in ("image_channels", "channels", "blocks", "head_dim", "condition_width"):
            self._at_least(field, 1)
        for field in ("transformer_layers", "groups", "patch", "attention_block"):
            self._at_least(field, 1)
        if not self.multipliers or min(self.multipliers) < 1:
            raise UserError(f"multipliers: {self.multipliers} is no list of levels; give numbers from 1 up")
        if len(self.attention) != len(self.multipliers):
            raise UserError(
                f"attention: {self.attention} has {len(self.attention)} entries; give one for each of the "
                f"{len(self.multipliers)} levels of multipliers"
            )
        if self.channels % self.groups:
            raise UserError(f"groups: {self.groups} does not divide channels, {self.channels}; use a divisor")
        for level, (multiplier, attends) in enumerate(zip(self.multipliers, self.attention, strict=True)):
            width, last = self.channels * multiplier, level + 1 == len(self.multipliers)
            if (attends or last) and width % self.head_dim:
                raise UserError(
                    f"head_dim: {self.head_dim} does not divide the {width} channels of level {level}; "
                    "use a divisor"
                )
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: {self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")

    @property
    def factor(self) -> int:
        """What the sides of a picture have to be multiples of."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def _at_least(self, field, least):
        value = getattr(self, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise UserError(f"{field}: {value!r} is out of range; give a whole number, {least} or more")


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

    resolution: int = 32
    latents: bool = False
    schedule: str = "cosine"
    times: int = 1000
    prediction: str = "v"
    gamma: float = 5.0
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    drop_rate: float = 0.1
    unconditional_length: int = 1
    text_vocab_size: int = 0
    text_layers: int = 0
    text_heads: int = 1
    text_ffn: int = 0
    text_length: int = 0

    def __post_init__(self):
        super().__post_init__()
        for field in ("times", "resolution", "text_heads"):
            self._at_least(field, 1)
        for field in ("unconditional_length", "text_vocab_size", "text_layers"):
            self._at_least(field, 0)
        if self.resolution % self.factor:
            raise UserError(f"resolution: {self.resolution} is no multiple of {self.factor}; use one that is")
        for field, known in (("schedule", SCHEDULES), ("prediction", PREDICTIONS)):
            if getattr(self, field) not in known:
                raise UserError(f"{field}: {getattr(self, field)!r} is unknown; use {' or '.join(known)}")
        for field in ("gamma", "noise_offset", "input_perturbation"):
            if getattr(self, field) < 0:
                raise UserError(f"{field}: {getattr(self, field)} is negative; give 0 or more")
        if not 0 <= self.drop_rate < 1:
            raise UserError(f"drop_rate: {self.drop_rate} is no share; give 0 or more and less than 1")
        if self.text_vocab_size:
            for field in ("text_layers", "text_ffn", "text_length"):
                self._at_least(field, 1)
            if self.condition_width % self.text_heads:
                raise UserError(
                    f"text_heads: {self.text_heads} does not divide condition_width, {self.condition_width}; "
                    "use a divisor"
                )


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
