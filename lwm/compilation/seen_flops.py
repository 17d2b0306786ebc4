"""FLOPs and memory of what a model looks at: cross-attention layers, encoder, resampler.

Letters beside those of lwm/__init__.py: a row of T tokens has q clips and I frames with P features each, S of
them; M cross-attention layers; W and F the widths of the encoder and of a feed-forward part; G tokens of a
frame in the encoder, X before the resampler.
"""

from typing import NamedTuple

from lwm.models.cross_sizes import CrossAttentionConfig
from lwm.training.stages import Stage


class Seen(NamedTuple):
    """FLOPs of the rows of one optimizer step, on all devices together; three times those of a forward pass.

    Attributes:
      queries: 6 · M · T · 2 · D · N · H: what makes queries of the text, and text of what they found.
      keys: 6 · M · S · 2 · C · K · H: what makes keys and values of features.
      attention: 12 · M · pairs · N · H: scores and values. With media="all" a clip has T / q · S / q pairs.
        With "earlier" its text begins with a token for each frame, which sees on average half of them, and
        the rest sees all (lwm.data.clip_questions): (T - I / 2) / q · S / q.
      fed: 6 · M · T · 3 · D · F of the gated feed-forward parts.
      encoder: for each layer and frame 6 · G · (4 W² + 3 W F) + 12 · G² · W; patches, whose pixels need no
        gradient, 4 · 3 patch² · W each; the projector 6 · G · W · C.
      resampler: for each layer and frame 6 · (C² (4 P + 2 X) + 3 P C F) + 12 · P (P + X) C.
    """

    queries: float
    keys: float
    attention: float
    fed: float
    encoder: float
    resampler: float

    @property
    def total(self) -> float:
        return sum(self)


def seen_flops(config: CrossAttentionConfig, stage: Stage) -> Seen:
    """Of a training step; frames that only fill up the devices of "seq" are left out."""
    T, M, frames = stage.context_length, config.cross_layers, stage.row_frames(1)
    D, N, K, H = config.width, config.heads, config.kv_heads, config.head_dim
    C, P, W, F = config.feature_width, config.frame_tokens, config.encoder_width, config.encoder_ffn
    S, G = frames * P, config.patches + config.class_tokens
    pairs = (T - (frames / 2 if config.media == "earlier" else 0)) * S / stage.questions
    X = G if config.encoder_layers else P
    encoder = config.encoder_layers * (6 * G * (4 * W * W + 3 * W * F) + 12 * G * G * W)
    encoder += (config.encoder_layers > 0) * (12 * config.patches * config.patch**2 * W + 6 * G * W * C)
    resampler = 6 * (C * C * (4 * P + 2 * X) + 3 * P * C * F) + 12 * P * (P + X) * C
    of_a_row = Seen(
        queries=6 * M * T * 2 * D * N * H,
        keys=6 * M * S * 2 * C * K * H,
        attention=12 * M * pairs * N * H,
        fed=6 * M * T * 3 * D * config.cross_ffn,
        encoder=frames * encoder,
        resampler=frames * config.resampler_layers * resampler,
    )
    return Seen(*(float(stage.rows * part) for part in of_a_row))


def seen_again(config: CrossAttentionConfig, seen: Seen) -> float:
    """FLOPs of the step that are made twice: by `recompute` queries, keys and values, by `remat` the rest.

    Attention of the encoder is counted as made again unless `remat` keeps it; there it is a small part.
    """
    again = (seen.queries / 2 + seen.keys) / 3 if config.recompute else 0.0
    if config.remat != "none":
        again += (seen.queries / 2 + seen.fed + seen.encoder + seen.resampler) / 3
    return again


def seen_parts(
    config: CrossAttentionConfig, stage: Stage, mesh: dict[str, int]
) -> list[tuple[str, float, str]]:
    """(what, bytes on a device, what makes it smaller), as `flops.parts`, of what is seen."""
    rows = stage.rows / (mesh["data"] * mesh["fsdp"] * stage.accumulate)
    S = rows * stage.row_frames(mesh["seq"]) * config.frame_tokens / mesh["seq"]
    width = 2 if config.dtype == "bfloat16" else 4
    fewer = "a larger seq, or fewer frames"
    heads = S * config.kv_heads * config.head_dim / mesh["tensor"]
    kept = 0 if config.recompute else config.cross_layers
    at_once = min(config.key_block / S, 1) if config.key_block else 1
    return [
        # As they came, normalised, and their gradient.
        ("features of frames and their gradient", 3 * S * config.feature_width * width, fewer),
        ("keys and values that layers keep", kept * 2 * heads * width, "recompute=True"),
        ("keys, values and gradients of a layer", at_once * 2 * heads * (width + 4), "key_block=4096"),
    ]
