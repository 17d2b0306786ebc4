"""DreamLLM: documents of text and pictures, read and written by one causal language model (2309.11499).

    … text <dream_start> q_1 … q_Q <dream_end> <image_start> v_1 … v_P <image_end> text …

v are the patches of a picture, q learned queries. Their hidden states condition a diffusion decoder, whose
error reaches the language model through them; no embedding of a text or of a picture is what they should be
like. The decoder and the eyes are Stable Diffusion and CLIP in the paper and may be of our own training.

A batch is that of LWM (of `is_vision` and `targets_are_vision` nothing is read) with

    frames          uint8 [B, I, R, R, 3], the pictures of a row in order, then anything
    features        float [B, I, r, r, C], the latents of these, which a decoder of latents draws
    frame_weights   float [B, I], weights of the pictures in the loss of denoising, 0 = not drawn
    captions        int32 [B, I, S], for the losses of captions alone: ids of each, 0 = padding, and as the
                    first id, that there is no picture
    places          int32 [B, T]: 0 = the token itself; 1 + i (P + Q) + k: patch k of picture i of the row,
                    or, from k = P on, its query k - P. A picture i = I has no pixels: its queries stand
                    in a segment of their own, <s> <dream_start> q … <dream_end> </s>, for "no condition"

`frames`, `features` and `frame_weights` are cut over "seq" by whole pictures.
"""

import jax
import jax.numpy as jnp
from jax import Array

from lwm.models import dream_network
from lwm.models.captions import contrastive_loss
from lwm.models.codebook import unit
from lwm.models.condition import Condition
from lwm.models.diffusion_decoder import DiffusionDecoder
from lwm.models.dream_network import DreamNetwork, Read
from lwm.models.dream_sizes import PARTS, SIZES, DreamConfig
from lwm.models.dream_speaker import Speaker
from lwm.parallel.mesh import axis_size

__all__ = ["PARTS", "SIZES", "DreamConfig", "DreamLLM"]


class DreamLLM:
    """A model of the training loop; its parameters are {part: …} with the parts of `PARTS`."""

    Config = DreamConfig
    SIZES = SIZES
    PARTITION_RULES = (
        *((rf"decoder/.*{pattern}", spec) for pattern, spec in DiffusionDecoder.PARTITION_RULES),
        *dream_network.PARTITION_RULES,
    )

    def __init__(self, config: DreamConfig):
        self.config = config
        self.frozen = config.frozen  # parts that the optimizer leaves alone
        self.network = DreamNetwork(config)
        self.speaker = Speaker(config.speaker)  # its language model, for samplers: reads params["language"]
        self.decoder = DiffusionDecoder(config.decoder)

    def init(self, key: Array, batch: dict) -> dict:
        """Random parameters; of the batch only the shapes are used.

        Raises:
            ValueError: arrays that are missing, or of other shapes or kinds than this model reads.
        """
        self._check(batch)
        network_key, decoder_key = jax.random.split(key)
        shapes = {name: jax.ShapeDtypeStruct(batch[name].shape, batch[name].dtype) for name in _READ}
        params = self.network.lazy_init(network_key, shapes, method="everything")["params"]
        return params | {"decoder": self.decoder.init(decoder_key, {})}

    def loss(self, params: dict, batch: dict, key: Array) -> tuple[Array, dict[str, Array]]:
        """L = a_text L_text + a_vision L_denoising, both means over the S documents of the batch; in stages
        before the parts are joined + a_decoder L_decoder + a_contrast L_contrast, means over the pictures of
        the (micro)batch; as a control + a_align L_align, which is L_denoising with ℓ = 1 - the cosine of the
        mean of a dream and the mean of what the decoder's own text encoder makes of the caption.

        L_text = (1/S) Σ w nll over the targets, L_denoising = (1/S) Σ w ℓ over the pictures, ℓ the weighted
        squared error of `DiffusionDecoder`. Of a share of the pictures the condition is that of no picture.
        Parts that the stage does not train get no gradient.

        Returns:
            loss, float32 scalar, and metrics: "loss", "denominator" (S), and, of the losses that weigh,
            "text_loss" (L_text), "text_nll" (mean nats over tokens of weight > 0), "text_tokens",
            "dream_loss" (L_denoising), "loss_noise" (mean squared error, not weighted by its time),
            "count_noise" (sum of weights), "align_loss" (L_align); "decoder_noise" (as "loss_noise", from
            captions), "contrast_loss", "contrast_accuracy" (share of pictures whose caption is the nearest).

        Raises:
            ValueError: as `init`.
        """
        self._check(batch)
        config = self.config
        params = {
            name: jax.lax.stop_gradient(part) if name in config.frozen else part
            for name, part in params.items()
        }
        asked = {"text": config.text_weight > 0, "dreams": config.vision_weight > 0}
        read = self._apply(params, batch, **asked) if any(asked.values()) else Read(None, None)
        documents = jnp.max(batch["segments"], axis=1)
        if read.dreams is not None:
            # The segment of no picture is no document.
            nothing_B = read.dreams.there_BS[:, 0].reshape(len(documents), -1)[:, -1]
            documents -= nothing_B.astype(documents.dtype)
        S = jnp.maximum(jnp.sum(documents), 1).astype(jnp.float32)
        total, metrics = jnp.float32(0), {"denominator": S}
        if read.nll_BT is not None:
            weights_BT = batch["weights"]
            tokens = jnp.sum(weights_BT > 0).astype(jnp.float32)
            metrics["text_loss"] = jnp.sum(weights_BT * read.nll_BT) / S
            metrics["text_nll"] = jnp.sum((weights_BT > 0) * read.nll_BT) / jnp.maximum(tokens, 1)
            metrics["text_tokens"] = tokens
            total += config.text_weight * metrics["text_loss"]
        if read.dreams is not None:
            mean, found = self._denoising(params["decoder"], batch, read.dreams, key)
            metrics["dream_loss"] = mean * found["denominator"] / S
            metrics["loss_noise"], metrics["count_noise"] = found["denoising"], found["denominator"]
            total += config.vision_weight * metrics["dream_loss"]
            if config.align_weight:
                metrics["align_loss"] = self._alignment(params["decoder"], batch, read.dreams) / S
                total += config.align_weight * metrics["align_loss"]
        if config.decoder_weight or config.contrast_weight:
            found = self._of_captions(params, batch, jax.random.fold_in(key, 1))
            total += config.decoder_weight * found.pop("decoder_loss", 0.0)
            total += config.contrast_weight * found.get("contrast_loss", 0.0)
            metrics |= found
        return total, metrics | {"loss": total}

    def logits(self, params: dict, batch: dict) -> Array:
        """float32 [B, T, V] of what follows each token of a batch; targets and weights are not read."""

        def read(network):
            x_BTD = network.laid_out(batch["tokens"], network.seen(batch["frames"]), batch["places"])
            hidden_BTD, _ = network.language.trunk(x_BTD, batch["positions"], batch["segments"])
            return network.language.lm_head(hidden_BTD).astype(jnp.float32)

        return self._apply(params, method=read)

    def seen(self, params: dict, frames_BIRRC: Array) -> Array:
        """Pictures, uint8, as the language model sees them: [B, I x P, D], the patches of each in order."""
        return self._apply(params, frames_BIRRC, method="seen")

    def dreamed(self, params: dict, hidden_BQD: Array) -> Condition:
        """What the decoder draws from the final hidden states of the queries of a picture a row."""
        vectors_BQC = self._apply(params, hidden_BQD, method=lambda network, x: network.condition(x))
        return Condition(vectors_BQC, jnp.ones(vectors_BQC.shape[:2], bool))

    def _apply(self, params, *arguments, **options):
        network = {name: part for name, part in params.items() if name != "decoder"}
        return self.network.apply({"params": network}, *arguments, **options)

    def _denoising(self, params, batch, dreams, key):
        """The decoder's loss of all pictures of a batch."""
        B, pictures = batch["frames"].shape[:2]

        def folded(x):
            return x.reshape(B * pictures, *x.shape[2:])

        by_row = jax.tree.map(lambda x: x.reshape(B, pictures + 1, *x.shape[1:]), dreams)
        given = jax.tree.map(lambda x: folded(x[:, :pictures]), by_row)
        nothing = jax.tree.map(lambda x: jnp.repeat(x[:, pictures], pictures, axis=0), by_row)
        name = "latents" if self.config.decoder.latents else "images"
        shown = batch["features" if self.config.decoder.latents else "frames"]
        weights_B = folded(batch["frame_weights"]) * given.there_BS[:, 0]
        x_BHWC = self.decoder.pictures({name: folded(shown)})
        return self.decoder.denoising_loss(
            params, x_BHWC, given, key, unconditional=nothing, weights_B=weights_B
        )

    def _alignment(self, params, batch, dreams):
        """The sum over the pictures of a batch of how far dreams are from what the text encoder says."""
        B, pictures = batch["frames"].shape[:2]
        by_row = jax.tree.map(lambda x: x.reshape(B, pictures + 1, *x.shape[1:])[:, :pictures], dreams)
        captions_NS = batch["captions"].reshape(B * pictures, -1)
        said = self.decoder.condition(params, captions_NS, captions_NS)
        vectors_NQC = by_row.vectors_BSC.reshape(B * pictures, *dreams.vectors_BSC.shape[1:])
        dreamed_NC = jnp.mean(vectors_NQC.astype(jnp.float32), axis=1)
        cosine_N = jnp.sum(unit(dreamed_NC) * unit(said.mean()), axis=-1)
        weights_N = (batch["frame_weights"] * by_row.there_BS[:, :, 0]).reshape(-1)
        return jnp.sum(weights_N * (1 - cosine_N))

    def _of_captions(self, params, batch, key):
        """Losses and metrics of the pictures with their captions, without the language model."""
        config, found = self.config, {}
        captions_NS = batch["captions"].reshape(-1, batch["captions"].shape[-1])
        condition = self.decoder.condition(params["decoder"], captions_NS, captions_NS)
        if config.decoder_weight:
            # A caption of no words stands for no condition: the begin of text alone.
            empty_N1 = captions_NS[:, :1]
            without = self.decoder.condition(params["decoder"], empty_N1, empty_N1)
            images = batch["frames"].reshape(-1, *batch["frames"].shape[2:])
            x_BHWC, there_N = self.decoder.pictures({"images": images}), captions_NS[:, 0] > 0
            options = {"unconditional": without, "weights_B": there_N}
            loss, metrics = self.decoder.denoising_loss(params["decoder"], x_BHWC, condition, key, **options)
            found |= {"decoder_loss": loss, "decoder_noise": metrics["denoising"]}
        if config.contrast_weight:
            compared = self._apply(params, batch["frames"], *condition, method="compared")
            found["contrast_loss"], found["contrast_accuracy"] = contrastive_loss(*compared, captions_NS)
        return found

    def _check(self, batch):
        """Raises ValueError for arrays that are missing, or of other shapes or kinds than are read here."""
        config = self.config
        needed = [*_READ, "weights"]
        if config.vision_weight:
            needed += ["frame_weights", *(["features"] if config.decoder.latents else [])]
        if config.decoder_weight or config.contrast_weight or config.align_weight:
            needed.append("captions")
        if missing := [name for name in needed if name not in batch]:
            raise ValueError(f"batch: has no {missing[0]!r}, which a DreamLLM reads")
        frames, (B, T), R = batch["frames"], batch["tokens"].shape, config.vision.resolution
        if (
            frames.ndim != 5
            or frames.shape[0] != B
            or frames.shape[2:] != (R, R, 3)
            or frames.dtype != jnp.uint8
        ):
            raise ValueError(f"frames: {frames.dtype} {frames.shape}; needs uint8 [{B}, I, {R}, {R}, 3]")
        if not frames.shape[1] or frames.shape[1] % axis_size("seq"):
            raise ValueError(
                f"frames: {frames.shape[1]} in a row; needs a multiple of seq={axis_size('seq')}: fill up"
            )
        for name, shape in (("places", (B, T)), ("frame_weights", frames.shape[:2])):
            if name in batch and batch[name].shape != shape:
                raise ValueError(f"{name}: shape {batch[name].shape}; needs {shape}")


_READ = ("tokens", "targets", "segments", "positions", "places", "frames")
