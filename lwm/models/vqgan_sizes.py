"""The shape of a VQGAN (2012.09841), its losses, and the sizes there are. Plain Python."""

import dataclasses

from lwm.errors import UserError
from lwm.models.sizes import DTYPES


@dataclasses.dataclass(frozen=True)
class VQGANConfig:
    """Shape and losses; see `SIZES`. Raises UserError when the shape is impossible."""

    resolution: int  # frames are resolution × resolution pixels
    channels: int
    multipliers: tuple[int, ...]  # channels of each level, in units of `channels`; a level halves the grid
    blocks: int  # residual blocks of an encoder level
    latent_channels: int
    codes: int  # V
    code_channels: int  # C
    patch: int = 1  # pixels folded into channels before the first convolution
    groups: int = 32  # of GroupNorm
    shortcut: bool = False  # a linear map of each patch beside the encoder and the decoder
    cosine: bool = False  # look codes up by angle instead of by distance
    l1_weight: float = 1.0
    l2_weight: float = 0.0
    codebook_weight: float = 1.0
    commitment_weight: float = 0.25
    adversarial_weight: float = 0.0  # 0: no discriminator
    adversarial_start: int = 0  # in optimizer steps, counted by `refresh`
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    refresh_every: int = 100  # optimizer steps from one revival of dead codes to the next; 0: never
    refresh_noise: float = 0.01  # in standard deviations of the latents
    dtype: str = "float32"  # of the computation; parameters and losses stay float32

    def __post_init__(self):
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        if self.resolution % self.factor:
            raise UserError(f"resolution: {self.resolution} is no multiple of {self.factor}; use one that is")
        if self.channels % self.groups:
            raise UserError(f"groups: {self.groups} does not divide channels, {self.channels}; use a divisor")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype: {self.dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
        if self.adversarial_start and not self.refresh_every:
            raise UserError("refresh_every: 0 leaves the steps to adversarial_start uncounted; use 1 or more")

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
