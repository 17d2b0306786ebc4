"""The shape of a DreamLLM (2309.11499): visual encoder, language model and diffusion decoder. Plain Python.

What is ours in the paper's size: the encoder has CLIP's shape with the layers of our language model (RMSNorm,
SwiGLU of two thirds of the width where CLIP has two matrices, which are as many parameters, 2002.05202).
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from lwm.limits import COUNT, POSITIVE, SIZE, Limits, Rules, check
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

    resolution: Annotated[int, SIZE]
    patch: Annotated[int, Limits(least=1, divides="resolution")]
    encoder_layers: Annotated[int, Limits(least=2)]
    encoder_width: Annotated[int, SIZE]
    encoder_ffn: Annotated[int, SIZE]
    encoder_heads: Annotated[int, Limits(least=1, divides="encoder_width")]
    norm_eps: Annotated[float, COUNT] = 1e-6
    init_std: Annotated[float, POSITIVE] = 0.02
    dtype: Annotated[str, Limits(choices=DTYPES)] = "float32"
    remat: Annotated[str, Limits(choices=REMAT_POLICIES)] = "nothing_saveable"
    scan: bool = True
    ffn_chunk: Annotated[int, COUNT] = 0
    attention_block: Annotated[int, SIZE] = 512

    def __post_init__(self):
        check(self)

    @property
    def patches(self) -> int:
        """P: what a language model sees of a picture."""
        return (self.resolution // self.patch) ** 2


def _text_alone(config: "DreamConfig") -> Iterator[str]:
    if size := config.language.vision_vocab_size:
        yield f"language.vision_vocab_size: {size}, but pictures come as patches; use 0"


def _specials(config: "DreamConfig") -> Iterator[str]:
    last = config.dream_start + len(SPECIALS) - 1
    if last >= config.language.vocab_size:
        yield (
            f"dream_start: {config.dream_start}, so that ids go up to {last}, of a vocabulary of "
            f"{config.language.vocab_size}; raise language.vocab_size or move it"
        )


def _given(config: "DreamConfig") -> Iterator[str]:
    if length := config.decoder.unconditional_length:
        yield f"decoder.unconditional_length: {length}, but queries stand for it; use 0"


def _same_size(config: "DreamConfig") -> Iterator[str]:
    drawn, seen = config.decoder.resolution, config.vision.resolution
    if not config.decoder.latents and drawn != seen:
        yield f"decoder.resolution: {drawn} pixels are drawn and {seen} are seen; make them equal"


def _learns(config: "DreamConfig") -> Iterator[str]:
    weights = {name: getattr(config, f"{name}_weight") for name in ("text", "vision", "decoder", "contrast")}
    if not any(weights.values()):
        yield f"text_weight: of {weights} one must be above 0; change them"


def _aligned(config: "DreamConfig") -> Iterator[str]:
    if config.align_weight and not config.vision_weight:
        yield f"align_weight: {config.align_weight}, but vision_weight is 0, so nothing is dreamed; set both"


def _captions(config: "DreamConfig") -> Iterator[str]:
    asked = config.decoder_weight or config.contrast_weight or config.align_weight
    if asked and not config.captioned:
        yield "decoder.text_vocab_size: 0, but captions are to be read; give the number of ids"


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
        align_weight: of the distance of a dream from the text encoder's words for the picture, a control that
            the paper's model does without.
        contrast_width: of the vectors in which pictures and captions are compared.
        trains: parts that are trained in this stage, of `PARTS`; () = all.

    Raises:
        UserError: a field that no model can be built from.
    """

    vision: VisualConfig
    language: TransformerConfig
    decoder: DecoderConfig
    queries: Annotated[int, SIZE]
    dream_start: Annotated[int, SIZE]
    rope_theta: Annotated[float, POSITIVE] = 10_000.0
    stripe: Annotated[int, COUNT] = 0
    text_weight: Annotated[float, COUNT] = 1.0
    vision_weight: Annotated[float, COUNT] = 10.0
    decoder_weight: Annotated[float, COUNT] = 0.0
    contrast_weight: Annotated[float, COUNT] = 0.0
    align_weight: Annotated[float, COUNT] = 0.0
    contrast_width: Annotated[int, SIZE] = 64
    trains: tuple[Annotated[str, Limits(choices=PARTS)], ...] = ()

    RULES: ClassVar[Rules] = (_text_alone, _specials, _given, _same_size, _learns, _captions, _aligned)

    def __post_init__(self):
        for name, kind in (
            ("vision", VisualConfig),
            ("language", TransformerConfig),
            ("decoder", DecoderConfig),
        ):
            if isinstance(getattr(self, name), dict):
                object.__setattr__(self, name, kind(**getattr(self, name)))
        object.__setattr__(self, "trains", tuple(self.trains))
        check(self)

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
