"""A language model that looks at long video through gated cross-attention (LV-XAttn, 2502.02406).

A LLaMA-style decoder, that of `transformer.py`, with a gated cross-attention layer before every group of its
blocks (Flamingo, 2204.14198; Llama 3-V, mPLUG-Owl3 and OpenFlamingo differ in where these stand and in what
they look at, see `cross_sizes.py`). A million features of video never become positions of the text: they are
cut over "seq" and stay there, while the queries of the text travel.

A batch is that of LWM with three more arrays (a model with `vision_vocab_size` = 0 reads text alone):

    frames     uint8 [B, I, R, R, 3], or `features`, float [B, I, any number, C], if there is no encoder
    frame_ids  int32 [B, I], (clip << FRAME_BITS) + number, numbers from 1 in every clip; 0 = no frame
    media      int32 [B, T], the last frame that a position of the text may see; number 0 = none yet

Clips of packed examples have numbers of their own and do not see each other's text. Frames need not be in
order, nor as many as the devices of "seq" divide: they are filled up with frames that nobody sees.

To generate, `watch` a clip once; what it returns is given to prefill and decoding in place of the parameters.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from lwm.models.activations import entering, leaving, rematerialised, stacked
from lwm.models.cross_sizes import SIZES, CrossAttentionConfig, count_cross_parameters
from lwm.models.gated_cross import GatedCross, Sight
from lwm.models.transformer import INPUTS, LWM, Block, Decoder
from lwm.models.vision_encoder import Vision
from lwm.ops.clip_attention import Clip
from lwm.ops.masks import FRAME_BITS
from lwm.ops.slots import held
from lwm.parallel.mesh import axis_size
from lwm.parallel.sharding import BATCH, Rules, constrain

__all__ = ["SIZES", "Clip", "CrossAttentionConfig", "CrossAttentionLM", "count_cross_parameters"]


class Group(nn.Module):
    """A gated cross-attention layer, then its share of the blocks; the carry of a scan over groups."""

    config: CrossAttentionConfig

    @nn.compact
    def __call__(self, carry, layers_M, positions_BT, segments_BT, spread, sight):
        (x_BTD, cache), config, same = carry, self.config, nn.broadcast
        number = layers_M[0] // len(layers_M)
        x_BTD = GatedCross(config, name="cross")(x_BTD, sight, number, positions_BT, spread)
        blocks = stacked(rematerialised(Block, config), len(layers_M), config, 0, same, same, same)
        arguments = (x_BTD, cache), layers_M, positions_BT, segments_BT, spread
        return blocks(config, name="blocks")(*arguments)[0], None


class CrossDecoder(Decoder):
    """`Decoder` with eyes, and groups in place of blocks."""

    config: CrossAttentionConfig

    def setup(self):
        super().setup()
        self.vision = Vision(self.config)

    def stack(self) -> nn.Module:
        config, same = self.config, nn.broadcast
        return stacked(Group, config.cross_layers, config, 0, same, same, same, same)(config)

    def trunk(self, x_BTD, positions_BT, segments_BT=None, cache=None, spread=None, sight=None):
        """As `Decoder.trunk`; with a cache, what is seen is the variable "clip", if there is one."""
        config = self.config
        if cache is not None and self.has_variable("clip", "watched"):
            sight = self.get_variable("clip", "watched")
        decoding = cache is not None and spread is None
        x_BTD = entering(x_BTD, decoding=decoding)
        layers_LM = jnp.arange(config.layers).reshape(config.cross_layers, -1)
        (x_BTD, cache), _ = self.layers((x_BTD, cache), layers_LM, positions_BT, segments_BT, spread, sight)
        return self.final_norm(leaving(x_BTD, decoding=decoding)), cache

    def hidden(self, batch):
        x_BTD = self.embed(batch["tokens"], batch["is_vision"])
        frames, frame_ids_BI = _filled(batch[seen_as(self.config)], batch["frame_ids"])
        y_BSC = self.vision(frames, frame_ids_BI)
        # Padding of the text sees nothing.
        real_BT, k_ids_BI = batch["segments"] > 0, frame_ids_BI
        q_ids_BT = batch["media"]
        if self.config.media == "all":
            q_ids_BT, k_ids_BI = (q_ids_BT >> FRAME_BITS) + 1, (k_ids_BI >> FRAME_BITS) + 1
        q_ids_BT = jnp.where(real_BT, q_ids_BT, 0)
        k_ids_BI = jnp.where(frame_ids_BI > 0, k_ids_BI, 0)
        sight = Sight(y_BSC, q_ids_BT, jnp.repeat(k_ids_BI, self.config.frame_tokens, axis=1))
        return self.trunk(x_BTD, batch["positions"], batch["segments"], sight=sight)[0]

    def watch(self, frames, frame_ids_BI, starts_BI) -> Clip:
        """Keys and values of every cross-attention layer."""
        starts_BI = jnp.where(frame_ids_BI > 0, jnp.maximum(starts_BI, -1) + 1, 0)
        frames, ids = _filled(frames, jnp.stack([frame_ids_BI, starts_BI], axis=-1))
        y_BSC = self.vision(frames, ids[..., 0])
        weights = self.variables["params"]["layers"]["cross"]["attention"]

        def of_all_layers(w_LCKH):
            x = jnp.einsum("BSC,LCKH->LBSKH", y_BSC, w_LCKH.astype(y_BSC.dtype))
            return constrain(x, *held())

        ids_BS = constrain(jnp.repeat(ids[..., 1], self.config.frame_tokens, axis=1), BATCH, "seq")
        return Clip(of_all_layers(weights["wk"]), of_all_layers(weights["wv"]), ids_BS)


def _inside(path: str, rules: Rules) -> Rules:
    """Rules for the blocks of LWM where they are stacked twice, as groups of blocks."""
    return tuple(
        (pattern.replace("layers/", path), P(None, *spec))
        for pattern, spec in rules
        if pattern.startswith("layers/")
    )


def _outside(rules: Rules) -> Rules:
    return tuple(rule for rule in rules if not rule[0].startswith("layers/"))


class CrossAttentionLM(LWM):
    """LWM with eyes: its loss, samplers and caches, for batches with frames (see the top of this file)."""

    Config = CrossAttentionConfig
    SIZES = SIZES
    # Widths of encoders have few factors: they are cut over "fsdp" and "tensor", not over "seq" as well.
    PARTITION_RULES = (
        *_outside(LWM.PARTITION_RULES),
        *_inside("layers/blocks/", LWM.PARTITION_RULES),
        (r"cross/attention/(wq|wk|wv)$", P(None, ("fsdp", "seq"), "tensor", None)),
        (r"cross/attention/norm/scale$", P(None, None)),
        (r"cross/merge/wo$", P(None, "tensor", None, ("fsdp", "seq"))),
        (r"cross/merge/ffn/(w1|w3)$", P(None, ("fsdp", "seq"), "tensor")),
        (r"cross/merge/ffn/w2$", P(None, "tensor", ("fsdp", "seq"))),
        (r"cross/merge/ffn_norm/scale$", P(None, None)),
        (r"cross/merge/(attention_gate|ffn_gate)$", P(None)),
        (r"vision/.*blocks/attention/(wq|wk|wv)$", P(None, "fsdp", "tensor")),
        (r"vision/.*blocks/attention/wo$", P(None, "tensor", "fsdp")),
        (r"vision/.*blocks/ffn/(w1|w3)$", P(None, "fsdp", "tensor")),
        (r"vision/.*blocks/ffn/w2$", P(None, "tensor", "fsdp")),
        (r"vision/.*blocks/\w+_norm/scale$", P(None, None)),
        (r"vision/(projector|encoder/patches|encoder/positions|resampler/latents)$", P(None, "fsdp")),
        (r"vision/(encoder/)?norm/scale$", P(None)),
    )
    SERVING_RULES = (
        *_outside(LWM.SERVING_RULES),
        *_inside("layers/blocks/", LWM.SERVING_RULES),
        (r"cross/attention/(wq|wk|wv)$", P(None, None, "tensor", None)),
        (r"cross/merge/wo$", P(None, "tensor", None, None)),
        (r"cross/merge/ffn/(w1|w3)$", P(None, None, "tensor")),
        (r"cross/merge/ffn/w2$", P(None, "tensor", None)),
        (r"(cross|vision)/.*(norm/scale|_gate)$", P()),
        (r"vision/.*blocks/attention/(wq|wk|wv)$", P(None, None, "tensor")),
        (r"vision/.*blocks/attention/wo$", P(None, "tensor", None)),
        (r"vision/.*blocks/ffn/(w1|w3)$", P(None, None, "tensor")),
        (r"vision/.*blocks/ffn/w2$", P(None, "tensor", None)),
        (r"vision/", P()),
        (r"clip/[kv]_LBSKH$", P(None, BATCH, "seq", "tensor", None)),
        (r"clip/ids_BS$", P(BATCH, "seq")),
    )

    def __init__(self, config: CrossAttentionConfig):
        self.config = config
        self.network = CrossDecoder(config)
        self.inputs = *INPUTS, seen_as(config), "frame_ids", "media"

    def init(self, key, batch):
        """As `LWM.init`.

        Raises:
            ValueError: arrays that are missing, or of other shapes or kinds than this model reads.
        """
        self._check(batch)
        return super().init(key, batch)

    def loss(self, params, batch, key):
        """As `LWM.loss`, raises as `init`."""
        self._check(batch)
        return super().loss(params, batch, key)

    def watch(self, params, frames, frame_ids_BI, starts_BI):
        """Looks at a clip for each row, once, for all text that follows.

        Args:
            params: the parameters, on the mesh in context.
            frames: uint8 [B, I, R, R, 3] or features [B, I, any number, C], as in a batch.
            frame_ids_BI: int32 as in a batch; 0 = no frame.
            starts_BI: int32, the text position from which on each frame is seen; -1 = never. With
                media="all" that is 0 for all frames, and a position beyond the text is "never" as well.

        Returns:
            params | {"clip": Clip}, for `prefill`, `decode`, `append` and `fill`. Without a clip these see
            nothing, as if all frames were missing.

        Raises:
            ValueError: shapes or kinds that do not go together, or no frames.
        """
        text = jax.ShapeDtypeStruct((len(frames), 1), jnp.int32)
        self._check({seen_as(self.config): frames, "frame_ids": frame_ids_BI, "media": text, "tokens": text})
        if starts_BI.shape != frame_ids_BI.shape:
            raise ValueError(f"starts_BI: shape {starts_BI.shape}; needs {frame_ids_BI.shape}, one a frame")
        weights = _without_clip(params)
        return weights | {"clip": _watch(self, weights, frames, frame_ids_BI, starts_BI)}

    def _apply(self, method, params, *arguments, **options):
        variables = {"params": _without_clip(params)}
        if "clip" in params:
            variables["clip"] = {"watched": params["clip"]}
        return self.network.apply(variables, *arguments, **options, method=method)

    def _check(self, batch) -> None:
        config, name = self.config, seen_as(self.config)
        if missing := [field for field in (name, "frame_ids", "media") if field not in batch]:
            raise ValueError(f"batch: has no {missing[0]!r}, which a model with cross-attention reads")
        seen, ids, media = batch[name], batch["frame_ids"], batch["media"]
        B, T = batch["tokens"].shape
        if media.shape != (B, T):
            raise ValueError(f"media: shape {media.shape}; needs {(B, T)}, as the tokens")
        if ids.shape != seen.shape[:2] or ids.shape[0] != B or not ids.shape[1]:
            raise ValueError(
                f"frame_ids: shape {ids.shape} for {name} {seen.shape}; needs [{B}, one or more]"
            )
        R, C, P = config.resolution, config.feature_width, config.frame_tokens
        if config.encoder_layers:
            needed, fits = f"[B, I, {R}, {R}, 3]", seen.shape[2:] == (R, R, 3) and seen.dtype == jnp.uint8
            kind = "uint8"
        else:
            tokens = "any number" if config.resampler_layers else P
            needed, kind = f"[B, I, {tokens}, {C}]", "a float type"
            fits = seen.ndim == 4 and seen.shape[3] == C and jnp.issubdtype(seen.dtype, jnp.floating)
            fits = fits and (config.resampler_layers > 0 or seen.shape[2] == P)
        if not fits:
            raise ValueError(f"{name}: {seen.dtype} {seen.shape}; needs {needed} of {kind}")


def seen_as(config: CrossAttentionConfig) -> str:
    """Under which name a batch has what the model looks at."""
    return "frames" if config.encoder_layers else "features"


@functools.partial(jax.jit, static_argnames="model")
def _watch(model, params, frames, frame_ids_BI, starts_BI) -> Clip:
    return model.network.apply({"params": params}, frames, frame_ids_BI, starts_BI, method="watch")


def _without_clip(params):
    return {name: leaf for name, leaf in params.items() if name != "clip"}


def _filled(*arrays):
    """Arrays [B, I, ...] with zeros behind the frames, up to what "seq" divides."""
    fill = -arrays[0].shape[1] % axis_size("seq")
    if not fill:
        return arrays
    return tuple(jnp.pad(x, [(0, 0), (0, fill), *[(0, 0)] * (x.ndim - 2)]) for x in arrays)
