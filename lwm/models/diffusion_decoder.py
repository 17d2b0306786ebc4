"""A diffusion decoder: pictures from a sequence of vectors, or from text by an encoder of its own.

    text ids ── text encoder ─┐
    vectors ──────────────────┴─► condition ─► U-Net ─► the noise of a picture, or, sampled, a picture

It is what Stable Diffusion is to DreamLLM (2309.11499): trained by itself it reads its text encoder; later
the vectors are what a language model has dreamed, and the U-Net's parameters stay as they are.

A batch is
    images         uint8 [B, R, R, C]; or latents, float [B, R, R, C], as a VAE has scaled them
    tokens         int32 [B, S], read by the text encoder; or condition, float [B, S, C]
    segments       int32 [B, S], of these; 0 = padding, which nobody sees. Without it there is no padding
    unconditional  float [S', C] or [B, S', C], only if no unconditional sequence is learned
    image_weights  float [B], weights of the examples, 0 = there is no picture. Without it all weigh 1
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from lwm.models import text_encoder, unet
from lwm.models.condition import Condition, alike, drop, without_condition
from lwm.models.text_encoder import TextEncoder
from lwm.models.unet import UNet
from lwm.models.unet_sizes import SIZES, DecoderConfig
from lwm.ops.diffusion import denoising_loss, draw_noised, make_schedule
from lwm.ops.diffusion_samplers import Route, advance, check_guidance, guided, make_route, sample, start

__all__ = ["SIZES", "Condition", "DecoderConfig", "DiffusionDecoder"]


class DiffusionDecoder:
    """A model of the training loop, and `sample`."""

    Config = DecoderConfig
    PARTITION_RULES = (
        *text_encoder.PARTITION_RULES,
        *((rf"unet/.*{pattern}", spec) for pattern, spec in unet.PARTITION_RULES),
        (r"unconditional$", P()),
    )

    def __init__(self, config: DecoderConfig):
        self.config = config
        self.schedule = make_schedule(config.schedule, config.times)
        self._unet = UNet(config)
        self._text = TextEncoder(config)

    def init(self, key: Array, batch: dict) -> dict:
        """Random float32 parameters: {"unet"[, "text"][, "unconditional"]}.

        Only the config decides their shapes: `batch` is taken because every model takes it, and not read.
        """
        del batch
        c = self.config
        unet_key, text_key, other_key = jax.random.split(key, 3)
        x_BHWC, times_B = jnp.zeros((1, c.resolution, c.resolution, c.image_channels)), jnp.zeros(1)
        condition_BSC = jnp.zeros((1, 1, c.condition_width))
        params = {"unet": self._unet.init(unet_key, x_BHWC, times_B, condition_BSC)["params"]}
        if c.text_vocab_size:
            tokens_BS = jnp.zeros((1, 1), jnp.int32)
            params["text"] = self._text.init(text_key, tokens_BS, tokens_BS == 0)["params"]
        if c.unconditional_length:
            shape = c.unconditional_length, c.condition_width
            params["unconditional"] = jax.random.normal(other_key, shape)
        return params

    def loss(self, params: dict, batch: dict, key: Array) -> tuple[Array, dict[str, Array]]:
        """The denoising loss of a batch (see the top of this file).

        Raises:
            ValueError: arrays that are missing, or of other shapes or kinds than this model reads.
        """
        name = "tokens" if "tokens" in batch and self.config.text_vocab_size else "condition"
        if name not in batch:
            asked = "'condition' or 'tokens'" if self.config.text_vocab_size else "'condition'"
            raise ValueError(f"batch: has no {asked}, from which pictures are made")
        x_BHWC = self.pictures(batch)
        return self.denoising_loss(
            params,
            x_BHWC,
            self.condition(params, batch[name], batch.get("segments")),
            key,
            unconditional=batch.get("unconditional"),
            weights_B=batch.get("image_weights"),
        )

    def denoising_loss(
        self,
        params: dict,
        x_BHWC: Array,
        condition: Condition,
        key: Array,
        *,
        unconditional: Array | Condition | None = None,
        weights_B: Array | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over examples of the weighted squared error, and its metrics.

        Args:
            x_BHWC: pictures in [-1, 1], or latents.
            condition: of `condition`; gradients reach its vectors.
            unconditional: what stands for no condition, vectors [S', C] or [B, S', C] or a `Condition`; None:
                the learned sequence.
            weights_B: of the examples; None: 1.

        Raises:
            ValueError: no unconditional sequence, where one is needed; shapes that do not go together.
        """
        c, B = self.config, x_BHWC.shape[0]
        drop_key, noise_key = jax.random.split(key)
        if c.drop_rate:
            condition = drop(drop_key, c.drop_rate, condition, self._without(params, unconditional, B))
        offsets = {"offset": c.noise_offset, "perturbation": c.input_perturbation}
        noised = draw_noised(noise_key, x_BHWC, self.schedule, **offsets)
        predicted = self._denoise(params, noised.x, noised.times_B, condition)
        of_them = x_BHWC, noised.noise, noised.times_B, self.schedule
        error_B = denoising_loss(predicted, *of_them, prediction=c.prediction)
        weighted_B = denoising_loss(predicted, *of_them, prediction=c.prediction, gamma=c.gamma)
        weights_B = jnp.ones(B) if weights_B is None else weights_B.astype(jnp.float32)
        count = jnp.sum(weights_B)
        some = jnp.where(count > 0, count, 1.0)
        loss = jnp.sum(weighted_B * weights_B) / some
        return loss, {"denoising": jnp.sum(error_B * weights_B) / some, "denominator": count}

    def sample(
        self,
        params: dict,
        condition: Array | Condition,
        key: Array,
        steps: int = 50,
        guidance: float = 2.0,
        *,
        segments_BS: Array | None = None,
        unconditional: Array | Condition | None = None,
        method: str = "dpm",
        eta: float = 0.0,
    ) -> Array:
        """Pictures uint8 [B, R, R, C], or latents float32.

        Args:
            condition: ids [B, S] for the text encoder, vectors [B, S, C], or a `Condition`.
            steps: calls of the U-Net, from 1 to the times of the schedule.
            guidance: 1 = the condition as it is; above, more of it than that.
            segments_BS: of ids or vectors; 0 = padding. None: no padding.
            unconditional: as for `denoising_loss`.
            method: "dpm" (DPM-Solver++ 2M) or "ddim"; eta: of the latter.

        Raises:
            ValueError: an argument out of range, or shapes that do not go together.
        """
        check_guidance(guidance)
        make_route(method, self.schedule, steps, eta=eta)
        if not isinstance(condition, Condition):
            condition = self.condition(params, condition, segments_BS)
        how = {"steps": steps, "method": method, "eta": eta, "guides": guidance != 1}
        return self._sample(params, condition, unconditional, key, jnp.float32(guidance), **how)

    def each_step(
        self,
        params: dict,
        condition: Condition,
        key: Array,
        steps: int = 50,
        guidance: float = 2.0,
        *,
        unconditional: Array | Condition | None = None,
        method: str = "dpm",
        eta: float = 0.0,
    ) -> Iterator[Array]:
        """Yields what `sample` has after each of its steps, for whoever waits; the last are its pictures.

        Raises:
            ValueError: as `sample`, at the first step.
        """
        check_guidance(guidance)
        route = make_route(method, self.schedule, steps, eta=eta)
        noise, fresh_key = self._noise(key, condition)
        state = start(noise, fresh_key if np.any(route.fresh) else None)
        for leg in map(Route._make, zip(*route, strict=True)):
            arguments = params, condition, unconditional, state, leg, jnp.float32(guidance)
            state, shown = self._advance(*arguments, guides=guidance != 1)
            yield shown

    def condition(self, params: dict, given: Array, segments_BS: Array | None = None) -> Condition:
        """Ids [B, S] or vectors [B, S, C], with segments of which 0 is padding, as a `Condition`.

        Raises:
            ValueError: ids without a text encoder; another shape.
        """
        c, there_BS = self.config, jnp.ones(given.shape[:2], bool)
        if segments_BS is not None:
            if segments_BS.shape != given.shape[:2]:
                raise ValueError(f"segments: shape {segments_BS.shape}; needs {given.shape[:2]}")
            there_BS = segments_BS > 0
        if jnp.issubdtype(given.dtype, jnp.integer):
            if not c.text_vocab_size:
                raise ValueError("tokens: this model has no text encoder (text_vocab_size = 0); give vectors")
            given = self._text.apply({"params": params["text"]}, given, there_BS)
        if given.ndim != 3 or given.shape[-1] != c.condition_width:
            raise ValueError(f"condition: shape {given.shape}; needs [B, S, {c.condition_width}]")
        return Condition(given, there_BS)

    def pictures(self, batch: dict) -> Array:
        """What is to be denoised, float32 BHWC: pixels in [-1, 1] or latents.

        Raises:
            ValueError: it is missing, or of another shape or kind.
        """
        c, name = self.config, "latents" if self.config.latents else "images"
        if name not in batch:
            raise ValueError(f"batch: has no {name!r}, which this decoder learns to make")
        x, shape = batch[name], (c.resolution, c.resolution, c.image_channels)
        fits = jnp.issubdtype(x.dtype, jnp.floating) if c.latents else x.dtype == jnp.uint8
        if x.shape[1:] != shape or not fits:
            kind = "float" if c.latents else "uint8"
            raise ValueError(f"{name}: {x.dtype} {x.shape}; needs {kind} [B, {', '.join(map(str, shape))}]")
        return x.astype(jnp.float32) if c.latents else x.astype(jnp.float32) / 127.5 - 1

    @functools.partial(jax.jit, static_argnums=0, static_argnames=("steps", "method", "eta", "guides"))
    def _sample(self, params, condition, unconditional, key, guidance, *, steps, method, eta, guides):
        predict = self._predictor(params, condition, unconditional, guidance, guides)
        noise, fresh_key = self._noise(key, condition)
        route = make_route(method, self.schedule, steps, eta=eta)
        return self._shown(sample(predict, noise, route, self.schedule, **self._known, key=fresh_key))

    @functools.partial(jax.jit, static_argnums=0, static_argnames="guides", donate_argnames="state")
    def _advance(self, params, condition, unconditional, state, leg, guidance, *, guides):
        predict = self._predictor(params, condition, unconditional, guidance, guides)
        state = advance(predict, state, leg, self.schedule, **self._known)
        return state, self._shown(state.x)

    @property
    def _known(self):
        return {"prediction": self.config.prediction, "clip": 0.0 if self.config.latents else 1.0}

    def _noise(self, key, condition):
        """What a picture begins as, and a key for noise on its way."""
        c, B = self.config, condition.vectors_BSC.shape[0]
        noise_key, fresh_key = jax.random.split(key)
        shape = (B, c.resolution, c.resolution, c.image_channels)
        return jax.random.normal(noise_key, shape), fresh_key

    def _predictor(self, params, condition, unconditional, guidance, guides):
        denoise = functools.partial(self._denoise, params)
        if not guides:
            return functools.partial(denoise, condition=condition)
        B = condition.vectors_BSC.shape[0]
        condition, without = alike(condition, self._without(params, unconditional, B))
        return guided(denoise, condition, without, guidance)

    def _shown(self, x_BHWC):
        if self.config.latents:
            return x_BHWC
        return jnp.round((jnp.clip(x_BHWC, -1, 1) + 1) * 127.5).astype(jnp.uint8)

    def _denoise(self, params, x_BHWC, times_B, condition):
        with jax.named_scope("unet"):
            return self._unet.apply({"params": params["unet"]}, x_BHWC, times_B, *condition)

    def _without(self, params, given, B):
        return without_condition(params.get("unconditional") if given is None else given, B)
