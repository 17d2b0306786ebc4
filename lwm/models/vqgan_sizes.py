"""The shape of a VQGAN, and its sizes. Plain Python, like `sizes`."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from lwm.limits import COUNT, SIZE, Limits, Rules, check
from lwm.models.sizes import DTYPES


def _grid(config: "VQGANConfig") -> Iterator[str]:
    if not config.multipliers:
        yield "multipliers: [] has no level; give numbers from 1 up"
    elif config.resolution % config.factor:
        yield f"resolution: {config.resolution} is no multiple of {config.factor}; use one that is"


def _counted(config: "VQGANConfig") -> Iterator[str]:
    if config.adversarial_start and not config.refresh_every:
        yield "refresh_every: 0 leaves the steps to adversarial_start uncounted; use 1 or more"


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Shape and losses; see `SIZES`. Raises UserError when the shape is impossible."""

    resolution: Annotated[int, SIZE]  # frames are resolution × resolution pixels
    channels: Annotated[int, SIZE]
    multipliers: tuple[Annotated[int, SIZE], ...]  # in units of `channels`; a level halves the grid
    blocks: Annotated[int, COUNT]  # residual blocks of an encoder level
    latent_channels: Annotated[int, SIZE]
    codes: Annotated[int, SIZE]  # V
    code_channels: Annotated[int, SIZE]  # C
    patch: Annotated[int, SIZE] = 1  # pixels folded into channels before the first convolution
    groups: Annotated[int, Limits(least=1, divides="channels")] = 32  # of GroupNorm
    shortcut: bool = False  # a linear map of each patch beside the encoder and the decoder
    cosine: bool = False  # look codes up by angle instead of by distance
    l1_weight: Annotated[float, COUNT] = 1.0
    l2_weight: Annotated[float, COUNT] = 0.0
    codebook_weight: Annotated[float, COUNT] = 1.0
    commitment_weight: Annotated[float, COUNT] = 0.25
    adversarial_weight: Annotated[float, COUNT] = 0.0  # 0: no discriminator
    adversarial_start: Annotated[int, COUNT] = 0  # in optimizer steps, counted by `refresh`
    discriminator_channels: Annotated[int, SIZE] = 64
    discriminator_layers: Annotated[int, SIZE] = 3
    refresh_every: Annotated[int, COUNT] = 100  # steps between revivals of dead codes; 0: never
    refresh_noise: Annotated[float, COUNT] = 0.01  # in standard deviations of the latents
    dtype: Annotated[str, Limits(choices=DTYPES)] = "float32"  # parameters and losses stay float32

    RULES: ClassVar[Rules] = (_grid, _counted)

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        check(self)

    @property
    def factor(self) -> int:
        """Pixels per code along each axis."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def codes_per_frame(self) -> int:
        return (self.resolution // self.factor) ** 2


SIZES = {
    # LWM's tokenizer: 256 × 256 pixels to 16 × 16 codes, 8192 codes of 64 numbers, 146M parameters.
    "paper": dict(
        resolution=256,
        channels=128,
        multipliers=(1, 2, 2, 4, 6),
        blocks=2,
        latent_channels=64,
        codes=8192,
        code_channels=64,
    ),
    "tiny": dict(
        resolution=64,
        channels=64,
        multipliers=(1,),
        blocks=0,
        latent_channels=16,
        codes=512,
        code_channels=16,
        shortcut=True,
        patch=8,
        groups=8,
        l1_weight=0.0,
        l2_weight=1.0,
        refresh_every=10,
    ),
}
