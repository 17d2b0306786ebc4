"""The convolutional building blocks of MultiModel (1706.05137, section 2.1), along a sequence.

    ConvStep(x)   LN(SepConv(ReLU(x))), SepConv depthwise with K taps and a dilation, then pointwise

    ConvBlock(x), "paper"                                       "code"
      h = x + ConvStep_3(ConvStep_3(x))                           y = ConvStep_7(ConvStep_3(x))
      x + ConvStep_15, dilation 8(ConvStep_15(h))                 x + y + ConvStep_31(ConvStep_15(x + y))

then dropout. "code" is the wiring of the released code (tensor2tensor at 3d9c62f2), with separable
convolutions where it has sub-separable ones. Causal blocks see nothing behind a position: they are padded on
the left, and keep their last inputs, their histories, to go on where they stopped.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.models.multimodel_sizes import MultiModelConfig
from lwm.ops.depthwise import depthwise
from lwm.ops.projection import project
from lwm.parallel.sharding import BATCH, constrain

# (taps, dilation) of the four steps of a block.
STEPS = {"paper": ((3, 1), (3, 1), (15, 1), (15, 8)), "code": ((3, 1), (7, 1), (15, 1), (31, 1))}


class ConvStep(nn.Module):
    """ReLU, separable convolution, layer norm; a tap and no more with without="convolution".

    config: of the model. taps, dilation: of the convolution. causal: pads on the left.
    """

    config: MultiModelConfig
    taps: int
    dilation: int = 1
    causal: bool = False

    @nn.compact
    def __call__(self, x_BTD, valid_BT=None, history_BHD=None):
        """(out_BTD of the model's width, the history for what follows or None).

        Args:
            x_BTD: of any width.
            valid_BT: bool, what is not padding; None = all. Padding is read as 0.
            history_BHD: of a causal step, H = (taps - 1) · dilation: what stands before x; None = nothing.
        """
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        taps = 1 if config.without == "convolution" else self.taps
        reach, (B, _, D) = (taps - 1) * self.dilation, x_BTD.shape
        taps_KD = self.param("taps", nn.initializers.normal(taps**-0.5), (taps, D), jnp.float32)
        normal = nn.initializers.normal(D**-0.5)
        pointwise = self.param("pointwise", normal, (D, config.width), jnp.float32)
        h_BTD = nn.relu(x_BTD)
        if valid_BT is not None:
            h_BTD = jnp.where(valid_BT[..., None], h_BTD, 0)
        if self.causal:
            if history_BHD is None:
                history_BHD = jnp.zeros((B, reach, D), h_BTD.dtype)
            window_BSD = jnp.concatenate([history_BHD, h_BTD], axis=1)
            history_BHD = window_BSD[:, window_BSD.shape[1] - reach :]
        else:
            window_BSD = jnp.pad(h_BTD, ((0, 0), (reach // 2, reach - reach // 2), (0, 0)))
        # Whole sequences on every device, and gradients as well: left to itself XLA (of JAX 0.10.2, on CPU)
        # cuts short ones over "tensor", and then the gradient of their shifts is wrong.
        h_BTD = constrain(depthwise(constrain(window_BSD, BATCH), taps_KD, self.dilation), BATCH)
        h_BTD = project(h_BTD, pointwise.astype(dtype))
        return layer_norm(config, "norm")(h_BTD), history_BHD


class ConvBlock(nn.Module):
    """Four steps with two residual connections; the carry of a scan over blocks."""

    config: MultiModelConfig
    causal: bool = False

    @nn.compact
    def __call__(self, x_BTD, valid_BT=None, histories=(None,) * 4):
        """(out_BTD, the histories of its steps); arguments as for `ConvStep`."""
        config, after = self.config, []

        def step(index, h_BTD):
            taps, dilation = STEPS[config.wiring][index]
            own = ConvStep(config, taps, dilation, self.causal, name=f"step_{index + 1}")
            h_BTD, history = own(h_BTD, valid_BT, histories[index])
            after.append(history)
            return h_BTD

        with jax.named_scope("conv_block"):
            h_BTD = step(1, step(0, x_BTD))
            if config.wiring == "paper":
                out_BTD = x_BTD + step(3, step(2, x_BTD + h_BTD))
            else:
                out_BTD = x_BTD + h_BTD + step(3, step(2, x_BTD + h_BTD))
            return dropped(self, config, out_BTD), tuple(after)


def layer_norm(config: MultiModelConfig, name: str) -> nn.LayerNorm:
    """In float32, back to the type of the model."""
    return nn.LayerNorm(epsilon=1e-6, dtype=jnp.dtype(config.dtype), name=name)


def dropped(module: nn.Module, config: MultiModelConfig, x):
    """Dropout where a key for it was given: in training."""
    return nn.Dropout(config.dropout, deterministic=not module.has_rng("dropout"))(x)
