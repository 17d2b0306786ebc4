"""Ring attention by itself, lowered for devices that are not there: what its memory and its hops are like."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lwm.ops.ring_attention import ring_attention
from lwm.parallel.mesh import make_mesh


def lower_ring(
    devices: Sequence[jax.Device],
    length: int,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    gradient: bool,
    **options,
) -> jax.stages.Lowered:
    """One sequence of bfloat16, causal, with segments, over all devices as one ring.

    Args:
      gradient: the output and the gradients of q, k and v, given the gradient of the output.
      options: of `ring_attention`.
    """
    mesh = make_mesh(seq=len(devices), devices=devices)

    def array(count: int) -> jax.ShapeDtypeStruct:
        spec = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "seq", "tensor"))
        return jax.ShapeDtypeStruct((1, length, count, head_dim), jnp.bfloat16, sharding=spec)

    tokens = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "seq"))
    segments = jax.ShapeDtypeStruct((1, length), jnp.int32, sharding=tokens)
    q, k = array(heads), array(kv_heads)

    def forward(q, k, v, segments):
        return ring_attention(q, k, v, segments, **options)

    def both(q, k, v, segments, dout):
        out, vjp = jax.vjp(lambda q, k, v: forward(q, k, v, segments), q, k, v)
        return out, *vjp(dout)

    with jax.set_mesh(mesh):
        if gradient:
            return jax.jit(both).lower(q, k, k, segments, q)
        return jax.jit(forward).lower(q, k, k, segments)
