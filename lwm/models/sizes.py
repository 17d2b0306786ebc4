"""The shape of a transformer, the published sizes, and the count of parameters they lead to.

Plain Python, so that size tables, FLOP counts and scaling laws need no JAX.
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from lwm.limits import COUNT, POSITIVE, SIZE, Limits, Rules, check

DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = (
    "none",
    "nothing_saveable",
    "attention_saveable",
    "dots_with_no_batch_dims_saveable",
    "offload",
)


def _bands(config: "TransformerConfig") -> Iterator[str]:
    if config.rope_low >= config.rope_high:
        yield f"rope_low: {config.rope_low} is not below rope_high = {config.rope_high}; lower it"


def _learns(config: "TransformerConfig") -> Iterator[str]:
    if not config.text_weight and not (config.vision_weight and config.vision_vocab_size):
        yield "text_weight: 0 leaves no loss to train on; raise it or vision_weight"


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A LLaMA-style decoder over text tokens and, if `vision_vocab_size` > 0, vision codes.

    Attributes:
        vocab_size, vision_vocab_size: ids of text and of vision tokens; 0 vision ids = no vision tables.
        width, ffn, layers, heads, kv_heads, head_dim: D, F, L, N, K, H.
        rope_theta: base of the rotary frequencies; each context stage sets its own.
        rope_factor, rope_low, rope_high, rope_original: Llama 3's scaling of these frequencies, see
            `ops.rope.Scaling`; a factor of 1 = none.
        tied: the text head reads the text embedding instead of a table of its own.
        norm_eps: epsilon of RMSNorm; 1e-6 as in the released LWM.
        init_std: standard deviation of the initial weights; LLaMA's 0.02 is near 1/sqrt(D) at D = 4096, so
            narrow models want more.
        dtype: type of activations and of the products; parameters are always float32.
        remat: what a layer keeps for its backward pass beside its input: "none" (no rematerialisation) keeps
            everything; "attention_saveable" keeps the result of attention, one more BTD a layer, so that no
            ring runs twice; "offload" keeps nothing and moves the inputs of layers to the memory of the host.
        scan: compile one layer and loop over it; False unrolls the same layers (the parameters are the same).
        ffn_chunk, loss_chunk: tokens of a device that meet the feed-forward layer and the heads at a time;
            0 = all of them.
        attention_block: rows and columns of a tile of the attention matrix.
        stripe: on a mesh with "seq" > 1 batches come in `zigzag_order(T, seq, stripe)`; 0 = one turn.
        text_weight, vision_weight: a_text and a_vision of L = a_text L_text + a_vision L_vision; a loss of
            weight 0 is not computed.

    Raises:
        UserError: a field that no network can be built from.
    """

    vocab_size: Annotated[int, SIZE]
    vision_vocab_size: Annotated[int, COUNT]
    width: Annotated[int, SIZE]
    ffn: Annotated[int, SIZE]
    layers: Annotated[int, SIZE]
    heads: Annotated[int, SIZE]
    kv_heads: Annotated[int, Limits(least=1, divides="heads")]
    head_dim: Annotated[int, Limits(least=2, multiple_of=2)]  # rotary embeddings turn pairs
    rope_theta: Annotated[float, POSITIVE] = 10_000.0
    rope_factor: Annotated[float, Limits(least=1)] = 1.0
    rope_low: Annotated[float, POSITIVE] = 1.0
    rope_high: Annotated[float, POSITIVE] = 4.0
    rope_original: Annotated[int, SIZE] = 8192
    tied: bool = False
    norm_eps: Annotated[float, COUNT] = 1e-6
    init_std: Annotated[float, POSITIVE] = 0.02
    dtype: Annotated[str, Limits(choices=DTYPES)] = "float32"
    remat: Annotated[str, Limits(choices=REMAT_POLICIES)] = "nothing_saveable"
    scan: bool = True
    ffn_chunk: Annotated[int, COUNT] = 0
    loss_chunk: Annotated[int, COUNT] = 0
    attention_block: Annotated[int, SIZE] = 512
    stripe: Annotated[int, COUNT] = 0
    text_weight: Annotated[float, COUNT] = 0.5
    vision_weight: Annotated[float, COUNT] = 0.5

    RULES: ClassVar[Rules] = (_bands, _learns)

    def __post_init__(self):
        check(self)


# LLaMA-2 (2307.09288; widths, depths and heads as in 2302.13971) with the tables of LWM (2402.08268): 8192
# codes, <eof>, <eov> and spare ids.
_LLAMA = {"vocab_size": 32_000, "vision_vocab_size": 8_448}

SIZES = {
    # For tests and for looking at shapes: bytes as text, 64 codes.
    "debug": dict(
        vocab_size=259, vision_vocab_size=66, width=32, ffn=64, layers=2, heads=4, kv_heads=2, head_dim=8
    ),
    # For two CPU cores; the vocabularies come from the data.
    "tiny": dict(
        vocab_size=259, vision_vocab_size=0, width=128, ffn=384, layers=4, heads=4, kv_heads=2, head_dim=32
    ),
    # TinyLlama 1.1B (2401.02385).
    "1b": dict(_LLAMA, width=2048, ffn=5632, layers=22, heads=32, kv_heads=4, head_dim=64),
    # OpenLLaMA 3B (openlm-research/open_llama_3b).
    "3b": dict(_LLAMA, width=3200, ffn=8640, layers=26, heads=32, kv_heads=32, head_dim=100),
    "7b": dict(_LLAMA, width=4096, ffn=11_008, layers=32, heads=32, kv_heads=32, head_dim=128),
    "13b": dict(_LLAMA, width=5120, ffn=13_824, layers=40, heads=40, kv_heads=40, head_dim=128),
}


def count_parameters(config: TransformerConfig) -> dict[str, int]:
    """Parameters by part, from the formula; every part that is not in a sum is a row of the table.

    Returns:
        {"text_embedding", "attention", "feed_forward", "norms", "text_head"}, whose sum is "language" (what
        LLaMA has), {"vision_embedding", "vision_head"}, whose sum is "vision" (what LWM adds), and "total".
    """
    D, F, L = config.width, config.ffn, config.layers
    language = {
        "text_embedding": config.vocab_size * D,
        "attention": L * 2 * D * config.head_dim * (config.heads + config.kv_heads),
        "feed_forward": L * 3 * D * F,
        "norms": (2 * L + 1) * D,
        "text_head": 0 if config.tied else D * config.vocab_size,
    }
    vision = {
        "vision_embedding": config.vision_vocab_size * D,
        "vision_head": D * config.vision_vocab_size,
    }
    sums = {"language": sum(language.values()), "vision": sum(vision.values())}
    return language | vision | sums | {"total": sums["language"] + sums["vision"]}
