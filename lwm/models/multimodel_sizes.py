"""The shape of a MultiModel, and its sizes. Plain Python, like `sizes`."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from lwm.limits import COUNT, SHARE, SIZE, Limits, Rules, check

DTYPES = ("float32", "bfloat16")
KINDS = ("classify", "caption", "speech", "translate")
DECODED = KINDS[1:]
ABLATIONS = ("", "experts", "attention", "convolution")
WIRINGS = ("paper", "code")
_HOPS = Limits(least=1, multiple_of="hop")


def _tasks(config: "MultiModelConfig") -> Iterator[str]:
    tasks, kinds = config.tasks, config.kinds
    if not tasks or len(set(tasks)) < len(tasks):
        yield f"tasks: {list(tasks)} is empty or names one twice; give each task once"
    elif len(kinds) != len(tasks):
        yield f"kinds: {len(kinds)} for {len(tasks)} tasks; give one for each"


def _end(config: "MultiModelConfig") -> Iterator[str]:
    if config.eos >= config.vocab_size:
        yield f"eos: {config.eos} is not among the {config.vocab_size} ids; choose one that is"


@dataclasses.dataclass(frozen=True)
class MultiModelConfig:
    """One body with modality nets around it (1706.05137).

    Attributes:
        tasks: names, in the order of their command tokens. kinds: for each of them, of `KINDS`: which
            modalities it goes from and to. Only nets of these kinds are made.
        classes: of all classification together. vocab_size: of all text.
        width, heads: D, N.
        experts, top_k, expert_ffn: E, k and F of each of the two mixtures.
        capacity_factor: places of an expert in training, in even shares; see `ops.moe_dispatch`.
        evaluation_capacity: the same without noise and dropout, 0 = a place for everybody.
        balance_weight: of the losses of importance and load.
        resolution: images are R x R pixels. samples: A, of a waveform at `sample_rate` a second.
        source_length, target_length: S, T of texts.
        window, hop: samples of a frame of the spectrogram and from one to the next.
        audio_blocks: residual blocks over it, each of which halves time; the first has `audio_channels`, each
            further one twice as many, up to the width. audio_halves: they halve frequencies as well.
        dropout: after each block. label_smoothing: share of the target that all ids have alike.
        without: what is taken out, of `ABLATIONS`: experts (a dense layer of the same work is in their
            place), attention (the mean is), convolution (nothing is).
        wiring: of `conv_blocks.ConvBlock`.
        eos: id of the end of a text. init_std of embeddings is width**-0.5.
        dtype: type of activations; parameters, gating, norms and losses are float32.

    Raises:
        UserError: a field that no network can be built from.
    """

    tasks: tuple[str, ...]
    kinds: tuple[Annotated[str, Limits(choices=KINDS)], ...]
    classes: Annotated[int, SIZE]
    vocab_size: Annotated[int, SIZE]
    width: Annotated[int, SIZE]
    heads: Annotated[int, Limits(least=1, divides="width")]
    experts: Annotated[int, SIZE]
    top_k: Annotated[int, Limits(least=1, most="experts")]
    expert_ffn: Annotated[int, SIZE]
    resolution: Annotated[int, SIZE]
    samples: Annotated[int, _HOPS]
    source_length: Annotated[int, SIZE]
    target_length: Annotated[int, SIZE]
    sample_rate: Annotated[int, SIZE] = 8000
    window: Annotated[int, _HOPS] = 256
    hop: Annotated[int, SIZE] = 128
    audio_blocks: Annotated[int, SIZE] = 3
    audio_channels: Annotated[int, SIZE] = 16
    audio_halves: bool = True
    capacity_factor: Annotated[float, COUNT] = 1.5
    evaluation_capacity: Annotated[float, COUNT] = 0.0
    balance_weight: Annotated[float, COUNT] = 0.01
    dropout: Annotated[float, SHARE] = 0.1
    label_smoothing: Annotated[float, SHARE] = 0.1
    without: Annotated[str, Limits(choices=ABLATIONS)] = ""
    wiring: Annotated[str, Limits(choices=WIRINGS)] = "paper"
    eos: Annotated[int, SIZE] = 2
    dtype: Annotated[str, Limits(choices=DTYPES)] = "float32"

    RULES: ClassVar[Rules] = (_tasks, _end)

    def __post_init__(self):
        for field in ("tasks", "kinds"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        check(self)

    def of_kind(self, *kinds: str) -> bool:
        """Whether a task is of one of these kinds."""
        return any(kind in kinds for kind in self.kinds)


def row_shapes(config: MultiModelConfig) -> dict[str, dict[str, tuple[tuple[int, ...], str]]]:
    """(shape, dtype) of everything in a row of a batch, by kind and name, for the kinds in the config."""
    image, text = ((config.resolution, config.resolution, 3), "uint8"), ((config.target_length,), "int32")
    every = {"task": ((), "int32"), "weights": ((), "float32")}
    rows = {
        "classify": {"images": image, "labels": ((), "int32")},
        "caption": {"images": image, "targets": text},
        "speech": {"waveform": ((config.samples,), "float32"), "samples": ((), "int32"), "targets": text},
        "translate": {"source": ((config.source_length,), "int32"), "targets": text},
    }
    return {kind: row | every for kind, row in rows.items() if kind in config.kinds}


_EIGHT = dict(
    tasks=("imagenet", "coco", "wsj_speech", "wsj_parsing", "en_de", "de_en", "en_fr", "fr_en"),
    kinds=("classify", "caption", "speech", *("translate",) * 5),
)
_FOUR = dict(
    tasks=("labels", "captions", "words", "copies"), kinds=("classify", "caption", "speech", "translate")
)

SIZES = {
    # For tests: one task of each kind.
    "debug": dict(
        _FOUR,
        classes=4,
        vocab_size=32,
        width=16,
        heads=2,
        experts=4,
        top_k=2,
        expert_ffn=16,
        resolution=16,
        samples=256,
        source_length=6,
        target_length=5,
        sample_rate=1000,
        window=32,
        hop=16,
        audio_blocks=2,
        audio_channels=4,
    ),
    # For two CPU cores; tasks, classes and lengths come from the data.
    "tiny": dict(
        _FOUR,
        classes=16,
        vocab_size=1024,
        width=80,
        heads=4,
        experts=8,
        top_k=2,
        expert_ffn=80,
        resolution=64,
        samples=32_000,
        source_length=48,
        target_length=48,
    ),
    # The eight tasks of the paper: 240 experts, half of them in the encoder and half in the decoder, four for
    # a token; width and vocabulary are those of the released code (multimodel1p8). Lengths, the spectrogram
    # and the share of places are ours: the paper does not say.
    "paper": dict(
        _EIGHT,
        classes=1000,
        vocab_size=8192,
        width=1536,
        heads=8,
        experts=120,
        top_k=4,
        expert_ffn=1536,
        resolution=299,
        samples=262_144,
        source_length=128,
        target_length=128,
        sample_rate=16_000,
        window=512,
        hop=64,
        audio_blocks=8,
        audio_channels=2,
        audio_halves=False,
        evaluation_capacity=2.0,
        dtype="bfloat16",
    ),
}
