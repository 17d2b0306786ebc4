"""The layers of a LLaMA-style decoder as Linen modules.

RMSNorm (1910.07467), rotary positions (2104.09864), grouped queries (2305.13245) and SwiGLU (2002.05202), as
put together in LLaMA-2 (2307.09288) and kept by LWM (2402.08268). Parameters are float32, drawn from
normal(init_std); there are no biases. Products run in `dtype`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from lwm.ops.blockwise import cross_entropy, feedforward
from lwm.ops.cached_attention import attend_spread, attend_whole
from lwm.ops.projection import project
from lwm.ops.ring_attention import ring_attention
from lwm.ops.rms_norm import rms_norm
from lwm.ops.rope import Scaling, rope
from lwm.parallel.sharding import constrain


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["first"])
@dataclasses.dataclass(frozen=True)
class Spread:
    """Said of tokens on their way to the cache: they are a chunk of prompts in zigzag order over "seq".

    Attributes:
        first: the cache has been empty before them.
    """

    first: bool


class RMSNorm(nn.Module):
    """x / rms(x) · scale along the last axis, computed in float32, returned in x's type."""

    eps: float = 1e-6

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return rms_norm(x, scale, self.eps)


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads: a ring, or to a cache (ops/cached_attention.py)."""

    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    block: int
    dtype: jnp.dtype
    init_std: float = 0.02
    stripe: int = 0
    rope_scaling: Scaling | None = None

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segments_BT=None, cache=None, layer=None, spread=None):
        """Attends to earlier tokens.

        Args:
            x_BTD: normalised activations; in `zigzag_order` on a mesh with "seq" > 1, but for a cache without
                `spread`: then whole on every device.
            positions_BT: int32 positions inside each segment; -1 marks padding on the way to the cache.
            segments_BT: int32 ids of the packed examples, 0 = padding; not used with a cache.
            cache: a `Cache` that receives the new tokens and has noted their positions.
            layer: int32 scalar, which layer of the cache is ours.
            spread: `Spread` if the tokens on their way to the cache are cut over "seq".

        Returns:
            out_BTD, and the cache with this layer's new keys and values (`length`, `positions_BS` as given).
        """
        B, T, D = x_BTD.shape
        N, K, H = self.heads, self.kv_heads, self.head_dim
        normal = nn.initializers.normal(self.init_std)
        wq = self.param("wq", normal, (D, N * H), jnp.float32)
        wk = self.param("wk", normal, (D, K * H), jnp.float32)
        wv = self.param("wv", normal, (D, K * H), jnp.float32)
        wo = self.param("wo", normal, (N * H, D), jnp.float32)
        with jax.named_scope("qkv"):
            q_BTNH = project(x_BTD, wq.astype(self.dtype)).reshape(B, T, N, H)
            k_BTKH = project(x_BTD, wk.astype(self.dtype)).reshape(B, T, K, H)
            v_BTKH = project(x_BTD, wv.astype(self.dtype)).reshape(B, T, K, H)
        with jax.named_scope("rope"):
            q_BTNH = rope(q_BTNH, positions_BT, self.rope_theta, self.rope_scaling)
            k_BTKH = rope(k_BTKH, positions_BT, self.rope_theta, self.rope_scaling)
        if cache is None:
            with jax.named_scope("ring"):
                if segments_BT is not None:
                    # A scan over layers computes what depends on its constants alone before the loop. Tied to
                    # the queries segments are none; else the masks of all tiles would be, T x S bits each.
                    q_BTNH, segments_BT = jax.lax.optimization_barrier((q_BTNH, segments_BT))
                out_BTNH = ring_attention(
                    q_BTNH, k_BTKH, v_BTKH, segments_BT, stripe=self.stripe, block=self.block
                )
        else:
            with jax.named_scope("cache"):
                arguments = (q_BTNH, k_BTKH, v_BTKH, positions_BT, cache, layer)
                if spread is None:
                    out_BTNH, cache = attend_whole(*arguments, block=self.block)
                else:
                    out_BTNH, cache = attend_spread(*arguments, first=spread.first, block=self.block)
        with jax.named_scope("out"):
            return project(out_BTNH.reshape(B, T, N * H), wo.astype(self.dtype)), cache


class FeedForward(nn.Module):
    """SwiGLU: (silu(x w1) · x w3) w2, `chunk` tokens of a device at a time (0 = all)."""

    ffn: int
    chunk: int
    dtype: jnp.dtype
    init_std: float = 0.02

    @nn.compact
    def __call__(self, x_BTD, whole=False):
        """out_BTD; whole: the tokens are few, and every device of "seq" has them all."""
        normal = nn.initializers.normal(self.init_std)
        D = x_BTD.shape[-1]
        w1_DF = self.param("w1", normal, (D, self.ffn), jnp.float32).astype(self.dtype)
        w3_DF = self.param("w3", normal, (D, self.ffn), jnp.float32).astype(self.dtype)
        w2_FD = self.param("w2", normal, (self.ffn, D), jnp.float32).astype(self.dtype)

        # Only the two products are kept for the gradient; what lies between them and w2 is cheap to repeat.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def gate(a_BTF, b_BTF):
            return project(nn.silu(a_BTF) * b_BTF, w2_FD)

        def swiglu(x_BTD):
            return gate(project(x_BTD, w1_DF), project(x_BTD, w3_DF))

        with jax.named_scope("ffn"):
            return swiglu(x_BTD) if whole else feedforward(swiglu, x_BTD, chunk=self.chunk)


class Embedding(nn.Module):
    """A table of one vector per id; ids outside the table (those of the other modality) read row 0."""

    vocab_size: int
    width: int
    dtype: jnp.dtype
    init_std: float = 0.02

    def setup(self):
        normal = nn.initializers.normal(self.init_std)
        self.embedding = self.param("embedding", normal, (self.vocab_size, self.width), jnp.float32)

    def __call__(self, ids_BT):
        ids_BT = jnp.where((ids_BT >= 0) & (ids_BT < self.vocab_size), ids_BT, 0)
        # Rows are read where the tokens are: the width is gathered, the ids stay split over "tensor".
        table_VD = constrain(self.embedding.astype(self.dtype), "tensor", None)
        return jnp.take(table_VD, ids_BT, axis=0)


class Head(nn.Module):
    """The projection to a vocabulary: logits, or the negative log-likelihood of given targets.

    tied: the embedding whose table it reads, None = it has a kernel of its own.
    """

    vocab_size: int
    width: int
    dtype: jnp.dtype
    chunk: int
    init_std: float = 0.02
    tied: Embedding | None = None

    def setup(self):
        normal = nn.initializers.normal(self.init_std)
        if self.tied is None:
            self.kernel = self.param("kernel", normal, (self.width, self.vocab_size), jnp.float32)

    def __call__(self, x_BTD):
        """Float32 logits_BTV."""
        return jnp.einsum("BTD,DV->BTV", x_BTD, self._kernel_DV(), preferred_element_type=jnp.float32)

    def nll(self, x_BTD, targets_BT):
        """Float32 nll_BT in nats; targets outside the vocabulary (the other modality's) count as id 0."""
        targets_BT = jnp.where((targets_BT >= 0) & (targets_BT < self.vocab_size), targets_BT, 0)
        return cross_entropy(x_BTD, self._kernel_DV(), targets_BT, chunk=self.chunk)

    def _kernel_DV(self):
        return (self.kernel if self.tied is None else self.tied.embedding.T).astype(self.dtype)
