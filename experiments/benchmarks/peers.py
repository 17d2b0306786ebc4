"""The contenders of the attention scoreboard: ours, and what others offer in JAX, called as their users do.

Every contender takes global q, k, v of shape B, T, N, H with T cut over the axis "seq" of the mesh in
context, and is causal. In which order it wants T is its `layout`.
"""

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lwm.ops.axes import SEQUENCE, pieces
from lwm.ops.balance import executed_tiles
from lwm.ops.masks import CAUSAL
from lwm.ops.meetings import Shards
from lwm.ops.ring_attention import ring_attention

OURS = "lwm ring_attention"
DENSE_LENGTH = 4096  # all scores at once: T x T of them for each head; beyond this it is compiled only
SPLASH_LENGTH = 2**16  # its mask is made on the host, 17.7 s here, four times as long at each doubling
SPLASH_BLOCK = 128
TILE = 128  # in which executed work is counted where a contender has no blocks


@dataclasses.dataclass(frozen=True)
class Contender:
    """One line of the scoreboard.

    Attributes:
      chunk: positions in a block of scores, 0 if there are none.
      layout: order of T, "zigzag" or "contiguous".
      attend: (q_BTNH, k_BTNH, v_BTNH) -> out_BTNH.
      longest: most tokens that it is timed at.
      stand_in: what runs instead of `attend`, to see its error, where `attend` itself cannot; on one device.
    """

    name: str
    chunk: int
    layout: str
    attend: Callable
    longest: int = 2**31
    stand_in: Callable | None = None

    def balance(self, length: int, n: int) -> float:
        """Tiles executed on the busiest of n devices over those with anything visible, shared equally."""
        zigzag = self.layout == "zigzag" and n > 1
        block = min(self.chunk or TILE, length // (2 * n if zigzag else n))
        count = length // block
        fair = count * (count + 1) / 2 / n
        if zigzag:
            shards = Shards(n, length // n, self.layout, CAUSAL)
            return float(executed_tiles(shards, block=block).sum(axis=1).max()) / fair
        share = count // n  # rows of tiles; the last device has the longest
        return (sum(range(count - share + 1, count + 1)) if self.chunk else share * count) / fair


def contenders(block: int, chunks: Sequence[int], devices: int) -> list[Contender]:
    """Ours first.

    Args:
      block: of ours.
      chunks: of ringattention, one contender for each.
      devices: in the ring; splash shows its error on one only.
    """
    found = [Contender(OURS, block, "zigzag", functools.partial(ring_attention, block=block))]
    attend = ringattention_jax()
    for chunk in chunks:
        name = "ringattention 0.1.2"
        found.append(Contender(name, chunk, "contiguous", functools.partial(_peer_ring, attend, chunk)))
    dense = functools.partial(jax.nn.dot_product_attention, is_causal=True)
    found.append(Contender("XLA dot_product_attention", 0, "contiguous", dense, longest=DENSE_LENGTH))
    interpreted = functools.partial(_splash, True) if devices == 1 else None
    splash = functools.partial(_splash, False)
    return [*found, Contender("jax splash", SPLASH_BLOCK, "contiguous", splash, stand_in=interpreted)]


def ringattention_jax() -> Callable:
    """The JAX path of ringattention 0.1.2.

    The package asks `jax.lib.xla_bridge`, which is gone, for the platform when it is imported. It gets a
    stand-in for as long as that takes.
    """
    platform = types.SimpleNamespace(platform="cpu")
    jax.lib.xla_bridge = types.SimpleNamespace(get_backend=lambda: platform)
    try:
        return importlib.import_module("ringattention").ringattention_jax
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; pip install '.[scoreboard]'") from error
    finally:
        del jax.lib.xla_bridge


def _peer_ring(attend, chunk, q, k, v):
    """As in its own README: inside shard_map, settings in a dictionary. No bias, no segments: its fastest."""
    chunk = min(chunk, q.shape[1] // pieces(SEQUENCE))
    settings = dict(
        causal_block_size=1,
        query_chunk_size=chunk,
        key_chunk_size=chunk,
        deterministic=True,
        dropout_rng=None,
        attn_pdrop=0.0,
        dtype=jnp.float32,
        policy=jax.checkpoint_policies.nothing_saveable,
        precision=None,
        prevent_cse=False,
    )

    def local(q, k, v):
        return attend(q, k, v, None, None, None, "seq", True, settings)

    cut = P(None, "seq")
    return jax.shard_map(local, in_specs=cut, out_specs=cut, check_vma=False)(q, k, v)


def _splash(interpret, q, k, v):
    """Queries cut over "seq", keys and values gathered: splash has no ring of its own."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads, n = q.shape[1], q.shape[2], pieces(SEQUENCE)
    if length > SPLASH_LENGTH:
        raise ValueError(f"not tried beyond {SPLASH_LENGTH} tokens: the mask takes minutes on the host")
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((length, length))] * heads),
        head_shards=1,
        q_seq_shards=n,
        interpret=interpret,
    )

    def local(kernel, q, k, v):
        heads_first = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
        return jnp.swapaxes(jax.vmap(kernel)(*heads_first), 1, 2)

    if interpret:
        return local(kernel, q, k, v)
    mesh = jax.sharding.get_abstract_mesh()
    kernel_spec = kernel.manual_sharding_spec(NamedSharding(mesh, P(None, "seq")))
    specs = kernel_spec, P(None, "seq"), P(), P()
    return jax.shard_map(local, in_specs=specs, out_specs=P(None, "seq"), check_vma=False)(kernel, q, k, v)
