"""The VQGAN that turns frames into codes and back (2012.09841; its place in LWM: 2402.08268, section 4.1).

    images ── Encoder ── z_BPC ── nearest code ── codes_BP          what the transformer reads and writes
                                       └── e_BPC ── Decoder ── images

Differences from the published recipe: no perceptual (LPIPS) loss, because its pretrained weights are not
available here, so detail is judged by pixels (L1, L2) and by the optional discriminator; and the adversarial
weight is a constant instead of a ratio of gradients.
"""

import functools

import einops
import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient
from jax.sharding import PartitionSpec as P

from lwm.errors import UserError
from lwm.models.autoencoder import Decoder, Encoder
from lwm.models.codebook import counts, quantize, revive, unit, usage_and_perplexity
from lwm.models.discriminator import Discriminator, discriminator_loss, generator_loss
from lwm.models.vqgan_sizes import SIZES, VQGANConfig

__all__ = ["SIZES", "VQGAN", "VQGANConfig", "psnr"]


class VQGAN:
    """A model of the training loop: `init`, `loss`, `refresh`; and `encode`, `decode` for everybody else."""

    Config = VQGANConfig
    # Batches are split over ("data", "fsdp"). The wide kernels, HWIO, are split by output channel, always a
    # multiple of config.channels; everything else is small, or (to 3 or 64 channels) would not divide.
    PARTITION_RULES = (
        (r".*(encoder|decoder)/(level|middle)_.*/kernel", P(None, None, None, ("fsdp", "seq"))),
        (r".*(encoder|decoder|codebook|discriminator)/.*", P()),
    )

    def __init__(self, config: VQGANConfig):
        self.config = config
        shared = ("channels", "multipliers", "blocks", "latent_channels", "patch", "groups", "shortcut")
        shape = {name: getattr(config, name) for name in shared} | {"dtype": jnp.dtype(config.dtype)}
        self._encoder = Encoder(code_channels=config.code_channels, **shape)
        self._decoder = Decoder(**shape)
        self._discriminator = Discriminator(
            config.discriminator_channels, config.discriminator_layers, shape["groups"], shape["dtype"]
        )

    @property
    def refresh_every(self) -> int:
        return self.config.refresh_every

    def init(self, key: Array, batch: dict) -> dict:
        """Random float32 parameters: {"encoder", "codebook", "decoder"[, "discriminator"]}.

        Only the config decides their shapes: `batch` is taken because every model takes it, and not read.
        """
        del batch
        c = self.config
        encoder_key, codebook_key, decoder_key, discriminator_key = jax.random.split(key, 4)
        images_BHWC = jnp.zeros((1, c.resolution, c.resolution, 3))
        side = c.resolution // c.factor
        latents_BHWC = jnp.zeros((1, side, side, c.code_channels))
        embedding_VC = jax.random.uniform(
            codebook_key, (c.codes, c.code_channels), minval=-1 / c.codes, maxval=1 / c.codes
        )
        params = {
            "encoder": self._encoder.init(encoder_key, images_BHWC)["params"],
            "codebook": {"embedding": embedding_VC},
            "decoder": self._decoder.init(decoder_key, latents_BHWC)["params"],
        }
        if c.adversarial_weight:
            params["discriminator"] = {
                "network": self._discriminator.init(discriminator_key, images_BHWC)["params"],
                "steps": jnp.zeros(()),  # no loss depends on it: only `refresh` moves it
            }
        return params

    def loss(self, params: dict, batch: dict, key: Array) -> tuple[Array, dict[str, Array]]:
        """The training loss of {"images": uint8 [B, H, W, 3]} and its parts; `key` is not used.

        L = reconstruction + codebook + 0.25 commitment [+ weight · (generator + discriminator)], equations 4
        to 6 of the paper. One backward pass serves both players: the generator's term sees a frozen
        discriminator, the discriminator's term a frozen reconstruction.
        """
        del key
        c = self.config
        x_BHWC = self._pixels(batch["images"])
        quantized = quantize(self._latents(params, x_BHWC), self._codebook(params))
        y_BHWC = self._decode(params, quantized.q_BPC)
        error_BHWC = y_BHWC - x_BHWC
        reconstruction = c.l1_weight * jnp.mean(jnp.abs(error_BHWC)) + c.l2_weight * jnp.mean(error_BHWC**2)
        loss = (
            reconstruction
            + c.codebook_weight * quantized.codebook_loss
            + c.commitment_weight * quantized.commitment_loss
        )
        usage, perplexity = usage_and_perplexity(counts(quantized.codes_BP, c.codes))
        metrics = {
            "reconstruction": reconstruction,
            "codebook": quantized.codebook_loss,
            "commitment": quantized.commitment_loss,
            "psnr": jnp.mean(psnr(x_BHWC, jnp.clip(y_BHWC, -1, 1))),
            "code_usage": usage,
            "code_perplexity": perplexity,
            "denominator": jnp.float32(x_BHWC.shape[0]),
        }
        if c.adversarial_weight:
            generator, discriminator = self._adversarial(params["discriminator"], x_BHWC, y_BHWC)
            metrics |= {"generator": generator, "discriminator": discriminator}
            started = params["discriminator"]["steps"] >= c.adversarial_start
            loss = loss + started * (c.adversarial_weight * generator + discriminator)
        return loss, metrics

    def refresh(self, params: dict, batch: dict, key: Array) -> dict:
        """Revives the codes that this batch does not use (`codebook.revive`), every `refresh_every` steps."""
        z_BPC = self._latents(params, self._pixels(batch["images"]))
        embedding_VC = revive(self._codebook(params), z_BPC, key, noise=self.config.refresh_noise)
        params = params | {"codebook": {"embedding": embedding_VC}}
        if "discriminator" in params:
            steps = params["discriminator"]["steps"] + self.refresh_every
            params["discriminator"] = params["discriminator"] | {"steps": steps}
        return params

    @functools.partial(jax.jit, static_argnums=0)
    def encode(self, params: dict, images: Array) -> Array:
        """uint8 images [B, H, W, 3] to codes int32 [B, P], P in rows from the top left corner."""
        z_BPC = self._latents(params, self._pixels(images))
        return quantize(z_BPC, self._codebook(params)).codes_BP

    @functools.partial(jax.jit, static_argnums=0)
    def decode(self, params: dict, codes_BP: Array) -> Array:
        """Codes int32 [B, P] to uint8 images [B, H, W, 3]."""
        y_BHWC = self._decode(params, self._codebook(params)[codes_BP])
        return jnp.round((jnp.clip(y_BHWC, -1, 1) + 1) * 127.5).astype(jnp.uint8)

    def _pixels(self, images: Array) -> Array:
        expected = (self.config.resolution, self.config.resolution, 3)
        if images.shape[1:] != expected:
            raise UserError(f"images: shape {images.shape[1:]}, but the model's is {expected}; resize them")
        return images.astype(jnp.float32) / 127.5 - 1.0

    def _latents(self, params: dict, x_BHWC: Array) -> Array:
        with jax.named_scope("encoder"):
            z_BHWC = self._encoder.apply({"params": params["encoder"]}, x_BHWC).astype(jnp.float32)
        z_BPC = einops.rearrange(z_BHWC, "B H W C -> B (H W) C")
        return unit(z_BPC) if self.config.cosine else z_BPC

    def _codebook(self, params: dict) -> Array:
        embedding_VC = params["codebook"]["embedding"]
        return unit(embedding_VC) if self.config.cosine else embedding_VC

    def _decode(self, params: dict, q_BPC: Array) -> Array:
        side = self.config.resolution // self.config.factor
        q_BHWC = einops.rearrange(q_BPC, "B (H W) C -> B H W C", H=side)
        with jax.named_scope("decoder"):
            return self._decoder.apply({"params": params["decoder"]}, q_BHWC).astype(jnp.float32)

    def _adversarial(self, params: dict, x_BHWC: Array, y_BHWC: Array) -> tuple[Array, Array]:
        with jax.named_scope("discriminator"):
            score, network = self._discriminator.apply, params["network"]
            generator = generator_loss(score({"params": stop_gradient(network)}, y_BHWC))
            real_BHW = score({"params": network}, x_BHWC)
            fake_BHW = score({"params": network}, stop_gradient(y_BHWC))
            return generator, discriminator_loss(real_BHW, fake_BHW)


def psnr(x_BHWC: Array, y_BHWC: Array) -> Array:
    """Peak signal-to-noise ratio of each image in dB, float32 [B]; inputs in [-1, 1], at most 100 dB."""
    mse_B = jnp.mean((x_BHWC - y_BHWC) ** 2, axis=(1, 2, 3)) / 4.0
    return -10.0 * jnp.log10(jnp.maximum(mse_B, 1e-10))
