"""The shape of a decoder that looks at frames through cross-attention, the published families, and counts.

Plain Python, as `sizes.py`. The families are those of LV-XAttn (2502.02406, section 5). Each has the language
model of its paper, as many cross-attention layers and tokens a frame, and an encoder of the published size.
What is ours instead of theirs, so that a count differs a little: RMSNorm without biases, rotary positions and
SwiGLU everywhere (of two thirds of the width where theirs has two matrices, which are as many parameters,
2002.05202), cross-attention with the heads of the decoder, one encoder instead of tiles and two stages.
"""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar

from lwm.limits import COUNT, SIZE, Limits, Rules
from lwm.models.sizes import SIZES as LANGUAGE_SIZES
from lwm.models.sizes import TransformerConfig, count_parameters

WAYS = ("rotate_queries", "rotate_keys", "gather_queries", "auto")
MEDIA = ("earlier", "all")


def _parts(config: "CrossAttentionConfig") -> Iterator[str]:
    needed = []
    if config.encoder_layers > 0:
        needed += ["resolution", "encoder_width"]
    if config.encoder_layers > 0 or config.resampler_layers > 0:
        needed += ["encoder_ffn"]
    for field in needed:
        if getattr(config, field) < 1:
            yield f"{field}: {getattr(config, field)} is not a size; give 1 or more"


def _heads(config: "CrossAttentionConfig") -> Iterator[str]:
    for kind, width in (("encoder", "encoder_width"), ("resampler", "feature_width")):
        if getattr(config, f"{kind}_layers") and getattr(config, width) % config.encoder_heads:
            whole = f"{width} = {getattr(config, width)}"
            yield f"encoder_heads: {config.encoder_heads} does not divide {whole}; choose a divisor"


def _blocks(config: "CrossAttentionConfig") -> Iterator[str]:
    if config.key_block and not (config.recompute and config.way == "rotate_queries"):
        yield f"key_block: {config.key_block} needs recompute and way='rotate_queries'; set it to 0"


def _frames(config: "CrossAttentionConfig") -> Iterator[str]:
    if not config.encoder_layers:
        return
    if config.resolution % config.patch:
        whole = f"resolution = {config.resolution}"
        yield f"patch: {config.patch} does not divide {whole}; choose a divisor"
    elif not config.resampler_layers and config.frame_tokens < config.patches:
        yield (
            f"frame_tokens: {config.frame_tokens}, but a frame has {config.patches} patches; give that or "
            "more, or resampler_layers that make fewer of them"
        )


@dataclasses.dataclass(frozen=True)
class CrossAttentionConfig(TransformerConfig):
    """A `TransformerConfig` with gated cross-attention layers between its blocks, and eyes.

    Attributes:
        cross_layers: gated cross-attention layers; each stands before an equal share of the blocks.
        cross_ffn: width of the feed-forward part of each of them; 0 = they have none, as mPLUG-Owl3's.
        feature_width: C, of what the layers look at.
        frame_tokens: P, how many of these there are in a frame.
        resolution, patch: pixels along the side of a frame and of a patch.
        encoder_layers, encoder_width, encoder_ffn: of the encoder of frames; 0 layers = batches hold stored
            features [B, frames, any number, C] in place of frames.
        encoder_heads: of the encoder, and of the resampler.
        resampler_layers: of a Perceiver resampler (2204.14198, section 3.1.1) that makes `frame_tokens`
            features of however many a frame has; its feed-forward width is `encoder_ffn`. 0 = none; an
            encoder then has (resolution / patch)² patches, and so many learned tokens in every frame beside
            them (class tokens, in which nothing but attention writes) as `frame_tokens` is above that.
        way: what travels between devices: "rotate_queries" is LV-XAttn, "rotate_keys" a ring of keys,
            "gather_queries" sends all queries to all; "auto" the one of these that sends least.
        recompute: keep, of a cross-attention layer, its input, its result and the log-sum-exps, and make
            queries, keys and values again in the backward pass; else keep those as well.
        media: "earlier": text sees the frames up to its own; "all": all frames of its clip.
        key_block: with `recompute` and travelling queries, so many keys of a device exist at a time (see
            `lv_xattn_projected`); 0 = all, and the queries travel.

    Raises:
        UserError: a field that no network can be built from.
    """

    cross_layers: Annotated[int, Limits(least=1, divides="layers")] = 1
    cross_ffn: Annotated[int, COUNT] = 0
    feature_width: Annotated[int, SIZE] = 0
    frame_tokens: Annotated[int, SIZE] = 0
    resolution: Annotated[int, COUNT] = 0
    patch: Annotated[int, SIZE] = 1
    encoder_layers: Annotated[int, COUNT] = 0
    encoder_width: Annotated[int, COUNT] = 0
    encoder_ffn: Annotated[int, COUNT] = 0
    encoder_heads: Annotated[int, SIZE] = 1
    resampler_layers: Annotated[int, COUNT] = 0
    way: Annotated[str, Limits(choices=WAYS)] = "rotate_queries"
    recompute: bool = True
    media: Annotated[str, Limits(choices=MEDIA)] = "earlier"
    key_block: Annotated[int, COUNT] = 0

    RULES: ClassVar[Rules] = (*TransformerConfig.RULES, _parts, _heads, _blocks, _frames)

    @property
    def patches(self) -> int:
        """Patches in a frame; 0 without an encoder."""
        return (self.resolution // self.patch) ** 2 if self.encoder_layers else 0

    @property
    def class_tokens(self) -> int:
        """Learned tokens that the encoder has in every frame beside the patches."""
        return 0 if self.resampler_layers or not self.encoder_layers else self.frame_tokens - self.patches


# SigLIP so400m at 384 pixels, of which patches of 14 take 378 (2303.15343); SwiGLU of 2/3 of 4304.
_SIGLIP = dict(
    resolution=378,
    patch=14,
    encoder_layers=27,
    encoder_width=1152,
    encoder_ffn=2880,
    encoder_heads=16,
    frame_tokens=729,
)
# CLIP ViT-L/14 (2103.00020), and six resampler layers to 64 latents (2204.14198).
_CLIP = dict(
    resolution=224,
    patch=14,
    encoder_layers=24,
    encoder_width=1024,
    encoder_ffn=2752,
    encoder_heads=16,
    resampler_layers=6,
    feature_width=1024,
    frame_tokens=64,
)
_QWEN2 = dict(vision_vocab_size=0, rope_theta=1e6, kv_heads=2, head_dim=128, cross_layers=4)
_MPT = dict(vocab_size=50_432, vision_vocab_size=0, head_dim=128, tied=True)

SIZES = {
    # For tests and for looking at shapes: bytes as text.
    "debug": dict(
        LANGUAGE_SIZES["debug"],
        vision_vocab_size=0,
        layers=4,
        cross_layers=2,
        cross_ffn=64,
        feature_width=24,
        frame_tokens=5,
        resolution=8,
        patch=4,
        encoder_layers=1,
        encoder_width=16,
        encoder_ffn=32,
        encoder_heads=2,
    ),
    # For two CPU cores.
    "tiny": dict(
        LANGUAGE_SIZES["tiny"],
        cross_layers=2,
        cross_ffn=384,
        feature_width=128,
        frame_tokens=16,
        resolution=32,
        patch=8,
        encoder_layers=2,
        encoder_width=128,
        encoder_ffn=384,
        encoder_heads=4,
    ),
    # Llama 3.2 Vision 11B (2407.21783, section 7; meta-llama/Llama-3.2-11B-Vision): 8 cross-attention layers
    # of 40; a frame is four tiles of 560 pixels, 1601 tokens each.
    "llama3v_11b": dict(
        vocab_size=128_256,
        vision_vocab_size=0,
        width=4096,
        ffn=14_336,
        layers=32,
        heads=32,
        kv_heads=8,
        head_dim=128,
        rope_theta=5e5,
        norm_eps=1e-5,
        cross_layers=8,
        cross_ffn=14_336,
        feature_width=4096,
        frame_tokens=6404,
        resolution=1120,
        patch=14,
        encoder_layers=40,
        encoder_width=1280,
        encoder_ffn=3456,
        encoder_heads=16,
    ),
    # mPLUG-Owl3 (2408.04840) on Qwen2 7B, 1.5B and 0.5B (2407.10671).
    "owl3_7b": dict(
        _QWEN2 | _SIGLIP,
        vocab_size=152_064,
        width=3584,
        ffn=18_944,
        layers=28,
        heads=28,
        kv_heads=4,
        feature_width=3584,
    ),
    "owl3_2b": dict(
        _QWEN2 | _SIGLIP,
        vocab_size=151_936,
        width=1536,
        ffn=8960,
        layers=28,
        heads=12,
        feature_width=1536,
        tied=True,
    ),
    "owl3_1b": dict(
        _QWEN2 | _SIGLIP | {"head_dim": 64},
        vocab_size=151_936,
        width=896,
        ffn=4864,
        layers=24,
        heads=14,
        feature_width=896,
        tied=True,
    ),
    # OpenFlamingo (2308.01390) on MPT 7B and 1B.
    "flamingo_9b": dict(
        _MPT | _CLIP,
        width=4096,
        ffn=11_008,
        layers=32,
        heads=32,
        kv_heads=32,
        cross_layers=8,
        cross_ffn=11_008,
    ),
    "flamingo_3b": dict(
        _MPT | _CLIP,
        width=2048,
        ffn=5504,
        layers=24,
        heads=16,
        kv_heads=16,
        cross_layers=24,
        cross_ffn=5504,
    ),
}


def count_cross_parameters(config: CrossAttentionConfig) -> dict[str, int]:
    """Parameters by part, from the formula.

    Returns:
        {"language": of the decoder without its eyes, "cross_attention", "cross_feed_forward" (norms and gates
        with their part), "encoder", "projector", "resampler", "feature_norm"} and "total", their sum.
    """
    D, N, K, H = config.width, config.heads, config.kv_heads, config.head_dim
    C, W, F = config.feature_width, config.encoder_width, config.encoder_ffn
    encoder = W * (3 * config.patch**2 + config.patches + config.class_tokens + 1)
    encoder += config.encoder_layers * (4 * W * W + 3 * W * F + 2 * W)
    resampler = C * config.frame_tokens + config.resampler_layers * (4 * C * C + 3 * C * F + 3 * C)
    fed = 3 * D * config.cross_ffn + D + 1
    parts = {
        "language": count_parameters(config)["total"],
        "cross_attention": config.cross_layers * (2 * H * (D * N + C * K) + D + 1),
        "cross_feed_forward": (config.cross_ffn > 0) * config.cross_layers * fed,
        "encoder": (config.encoder_layers > 0) * encoder,
        "projector": (config.encoder_layers > 0) * W * C,
        "resampler": (config.resampler_layers > 0) * resampler,
        "feature_norm": C,
    }
    return parts | {"total": sum(parts.values())}
