"""FLOPs of training a transformer, from its shape: before it is built, and without JAX."""

from lwm.models.sizes import TransformerConfig, count_parameters


def body_parameters(config: TransformerConfig) -> int:
    """Parameters without the tables of words and codes: the P of 2001.08361, section 2.1."""
    count = count_parameters(config)
    return count["attention"] + count["feed_forward"] + count["norms"]


def training_flops(config: TransformerConfig, tokens: float, length: int) -> float:
    """Forward and backward on `tokens` in rows of `length`, nothing computed twice.

    6 for each token and weight of a matrix product, heads included, embeddings not, as they are only read;
    and 6 · L · T · N · H a token for scores and values, half of them under a causal mask. It is what
    `lwm.compilation.flops` holds against the compiler's count.
    """
    count = count_parameters(config)
    heads = config.width * (config.vocab_size + config.vision_vocab_size)
    products = count["attention"] + count["feed_forward"] + heads
    attention = config.layers * length * config.heads * config.head_dim
    return 6.0 * tokens * (products + attention)


def context_ratio(width: int, short: int, long: int) -> float:
    """What a token costs in rows of `long`, in units of one in rows of `short`: (6 h + s2) / (6 h + s1).

    Of a plain layer of width h, whose feed-forward layer is four times as wide, without a causal mask:
    24 h^2 + 4 s h a token (Ring Attention, 2310.01889, appendix on training FLOPs).
    """
    return (6 * width + long) / (6 * width + short)
