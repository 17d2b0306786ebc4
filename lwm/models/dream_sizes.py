"""The shape of a DreamLLM (2309.11499): visual encoder, language model and diffusion decoder. Plain Python.

What is ours in the paper's size: the encoder has CLIP's shape with the layers of our language model (RMSNorm,
SwiGLU of two thirds of the width where CLIP has two matrices, which are as many parameters, 2002.05202).
"""

import dataclasses

from lwm.errors import UserError
from lwm.models.sizes import DTYPES, REMAT_POLICIES, TransformerConfig
from lwm.models.sizes import SIZES as LANGUAGE_SIZES
from lwm.models.unet_sizes import SIZES as DECODER_SIZES
from lwm.models.unet_sizes import DecoderConfig

# What a stage may train, by the names that parts have among the parameters.
PARTS = ("vision", "projector", "language", "queries", "condition", "decoder", "contrast")
SPECIALS = ("dream_start", "dream_end", "image_start", "image_end")  # ids in a row, from `dream_start` on


@dataclasses.dataclass(frozen=True)
class VisualConfig:
    """A vision transformer over pictures; the names are those of `CrossAttentionConfig`, whose blocks it has.

    Attributes:
        resolution, patch: pixels along the side of a picture and of a patch.
        encoder_layers: of the whole encoder. What a language model sees is the last but one.
        encoder_width, encoder_ffn, encoder_heads: of each.
        norm_eps, init_std, dtype, remat, scan, ffn_chunk, attention_block: as in `TransformerConfig`.

    Raises:
        UserError: a field that no network can be built from.
    """

    resolution: int
    patch: int
    encoder_layers: int
    encoder_width: int
    encoder_ffn: int
    encoder_heads: int
    norm_eps: float = 1e-6
    init_std: float = 0.02
    dtype: str = "float32"
    remat: str = "nothing_saveable"
    scan: bool = True
    ffn_chunk: int = 0
    attention_block: int = 512

    def __post_init__(self):
        sizes = "resolution", "patch", "encoder_width", "encoder_ffn", "encoder_heads", "attention_block"
        for field, least in (("encoder_layers", 2), ("ffn_chunk", 0), *((name, 1) for name in sizes)):
            if getattr(self, field) < least:
                raise UserError(f"{field}: {getattr(self, field)} is too small; give {least} or more")
        for field, whole in (("patch", "resolution"), ("encoder_heads", "encoder_width")):
            if getattr(self, whole) % getattr(self, field):
                raise UserError(
                    f"{field}: {getattr(self, field)} does not divide {whole} = {getattr(self, whole)}; "
                    "choose a divisor"
                )
        for field, known in (("dtype", DTYPES), ("remat", REMAT_POLICIES)):
            if getattr(self, field) not in known:
                raise UserError(f"{field}: {getattr(self, field)!r} is unknown; use {' or '.join(known)}")

    @property
    def patches(self) -> int:
        """P: what a language model sees of a picture."""
        return (self.resolution // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class DreamConfig:
    """The three parts, what joins them, and what a stage asks of them.

    Attributes:
        vision, language, decoder: the parts. The language model reads text alone (`vision_vocab_size` = 0),
            the decoder has no unconditional sequence of its own (`unconditional_length` = 0).
        queries: Q, dream queries of a picture.
        dream_start: its id; dream_end, image_start and image_end are the three after it.
        rope_theta, stripe: of the language model, in this stage.
        text_weight, vision_weight: of the losses of language and of denoising, in this stage; a loss of
            weight 0 is not computed.
        decoder_weight, contrast_weight: of what the decoder and the eyes learn of captions alone, without the
            language model; they need the decoder's text encoder.
        contrast_width: of the vectors in which pictures and captions are compared.
        trains: parts that are trained in this stage, of `PARTS`; () = all.

    Raises:
        UserError: a field that no model can be built from.
    """

    vision: VisualConfig
    language: TransformerConfig
    decoder: DecoderConfig
    queries: int
    dream_start: int
    rope_theta: float = 10_000.0
    stripe: int = 0
    text_weight: float = 1.0
    vision_weight: float = 10.0
    decoder_weight: float = 0.0
    contrast_weight: float = 0.0
    contrast_width: int = 64
    trains: tuple[str, ...] = ()

    def __post_init__(self):
        for name, kind in (
            ("vision", VisualConfig),
            ("language", TransformerConfig),
            ("decoder", DecoderConfig),
        ):
            if isinstance(getattr(self, name), dict):
                object.__setattr__(self, name, kind(**getattr(self, name)))
        object.__setattr__(self, "trains", tuple(self.trains))
        if self.queries < 1:
            raise UserError(f"queries: {self.queries} dream nothing; the paper has 64")
        if self.language.vision_vocab_size:
            size = self.language.vision_vocab_size
            raise UserError(f"language.vision_vocab_size: {size}, but pictures come as patches; use 0")
        last = self.dream_start + len(SPECIALS) - 1
        if self.dream_start < 1 or last >= self.language.vocab_size:
            raise UserError(
                f"dream_start: {self.dream_start}, so that ids go up to {last}, of a vocabulary of "
                f"{self.language.vocab_size}; raise language.vocab_size or move it"
            )
        if self.decoder.unconditional_length:
            length = self.decoder.unconditional_length
            raise UserError(f"decoder.unconditional_length: {length}, but queries stand for it; use 0")
        if not self.decoder.latents and self.decoder.resolution != self.vision.resolution:
            raise UserError(
                f"decoder.resolution: {self.decoder.resolution} pixels are drawn and "
                f"{self.vision.resolution} are seen; make them equal"
            )
        weights = {
            name: getattr(self, f"{name}_weight") for name in ("text", "vision", "decoder", "contrast")
        }
        if min(weights.values()) < 0 or not any(weights.values()):
            raise UserError(
                f"text_weight: of {weights} none may be below 0 and one must be above; change them"
            )
        if (weights["decoder"] or weights["contrast"]) and not self.captioned:
            raise UserError("decoder.text_vocab_size: 0, but captions are to be read; give the number of ids")
        for part in self.trains:
            if part not in PARTS:
                raise UserError(f"trains: there is no part {part!r}; choose from {', '.join(PARTS)}")

    @property
    def span(self) -> int:
        """Numbers that the places of one picture take, see `DreamLLM`."""
        return self.vision.patches + self.queries

    @property
    def captioned(self) -> bool:
        """Whether there is a text encoder, so that decoder and eyes can be trained by captions alone."""
        return self.decoder.text_vocab_size > 0

    @property
    def speaker(self) -> TransformerConfig:
        """The language model as it is in this stage."""
        return dataclasses.replace(self.language, rope_theta=self.rope_theta, stripe=self.stripe)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Parts that this stage leaves as they are."""
        return tuple(part for part in PARTS if self.trains and part not in self.trains)


SIZES = {
    # For tests and for looking at shapes: bytes as text.
    "debug": dict(
        vision=dict(
            resolution=8, patch=4, encoder_layers=2, encoder_width=16, encoder_ffn=32, encoder_heads=2
        ),
        language=dict(LANGUAGE_SIZES["debug"], vocab_size=264, vision_vocab_size=0),
        decoder=dict(DECODER_SIZES["debug"], unconditional_length=0),
        queries=2,
        dream_start=259,
    ),
    # For two CPU cores; reads bytes.
    "tiny": dict(
        vision=dict(
            resolution=32,
            patch=8,
            encoder_layers=4,
            encoder_width=96,
            encoder_ffn=256,
            encoder_heads=4,
            init_std=0.08,
            remat="none",
        ),
        language=dict(
            LANGUAGE_SIZES["tiny"], vocab_size=264, init_std=0.08, remat="none", attention_block=128
        ),
        decoder=dict(DECODER_SIZES["tiny"], unconditional_length=0),
        queries=8,
        dream_start=259,
    ),
    # CLIP ViT-L/14 (2103.00020) at 224 pixels, a 7B LLaMA with four ids more (and spare ones, so that
    # "tensor" may cut them), 64 queries and Stable Diffusion 2.1 base (2309.11499, section 4).
    "paper": dict(
        vision=dict(
            resolution=224,
            patch=14,
            encoder_layers=24,
            encoder_width=1024,
            encoder_ffn=2752,
            encoder_heads=16,
            dtype="bfloat16",
        ),
        language=dict(LANGUAGE_SIZES["7b"], vocab_size=32_064, vision_vocab_size=0, dtype="bfloat16"),
        decoder=DECODER_SIZES["sd21"],
        queries=64,
        dream_start=32_000,
    ),
}
