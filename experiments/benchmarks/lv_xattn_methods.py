"""What `lv_xattn_network.py` compares: one cross-attention by each method, compiled over all hosts.

rotate_queries   LV-XAttn
rotate_keys      ring attention: keys and values travel, and their gradients with them
gather_keys      every device takes all keys and values, computes, and gets the gradients of its own back
                 (an all-gather, and the reduce-scatter that is its transpose)
alone            the same computation with nothing sent: each device looks at its own keys n times
hop              k goes to the next device, and nothing else: what the link carries
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, per_device, pieces, spec
from lwm.ops.lv_xattn import lv_xattn
from lwm.ops.masks import Mask
from lwm.ops.round_trip import send
from lwm.ops.xattn_ways import WAYS, How, backward, forward
from lwm.parallel.mesh import make_mesh

HOW = How(n=1, mask=Mask(causal=False), block=512)


class Passes(NamedTuple):
    """A forward program, which returns what its backward needs as well, and that backward program.

    Not one program of both: it would see that the two passes begin by sending the same, and send that once.
    In a model other layers lie between them.
    """

    forward: Any
    backward: Any

    def __call__(self, q, k, v, dout):
        # Programs with collectives that overtake each other on several devices can wait for ever.
        out, pull = jax.block_until_ready(self.forward(q, k, v))
        return out, *self.backward(pull, dout)


class Layer:
    """One cross-attention over all devices: float32, one row, made-up numbers.

    Attributes:
      asked: "T", "S", "N", "K", "H" of the whole.
    """

    def __init__(self, asked: dict, devices: Sequence[jax.Device] | None = None):
        self.asked, devices = asked, jax.devices() if devices is None else devices
        self.mesh = make_mesh(seq=len(devices), devices=devices)
        self.sharding = NamedSharding(self.mesh, PartitionSpec(None, "seq"))

    def compile(self, method: str, direction: str):
        """A program of q, k, v (forward), or `Passes` of q, k, v, dout (both: out and three gradients)."""
        wanted = functools.partial(attend, method)
        *shapes, dout = [
            jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self.sharding) for shape in self._shapes()
        ]
        with jax.set_mesh(self.mesh):
            if direction == "forward":
                return jax.jit(wanted, out_shardings=self.sharding).lower(*shapes).compile()
            lowered = jax.jit(lambda q, k, v: jax.vjp(wanted, q, k, v)).lower(*shapes)
            forward = lowered.compile()
            pull = jax.tree.map(
                lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                lowered.out_info[1],
                forward.output_shardings[1],
            )
            pass_back = jax.jit(lambda pull, dout: pull(dout), out_shardings=(self.sharding,) * 3)
            return Passes(forward, pass_back.lower(pull, dout).compile())

    def arrays(self, direction: str) -> list[jax.Array]:
        """What a program of that direction takes."""
        rng = np.random.default_rng(jax.process_index())
        found = []
        for shape in self._shapes()[: 3 if direction == "forward" else 4]:
            own = rng.standard_normal((1, shape[1] // jax.process_count(), *shape[2:]), np.float32)
            found.append(jax.make_array_from_process_local_data(self.sharding, own, shape))
        return found

    def _shapes(self) -> list[tuple[int, ...]]:
        T, S, N, K, H = (self.asked[letter] for letter in "TSNKH")
        return [(1, T, N, H), (1, S, K, H), (1, S, K, H), (1, T, N, H)]


def attend(method: str, q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array) -> jax.Array:
    """out_BTNH by one of the methods, T and S cut over "seq"; k_BSKH of the device before for "hop".

    Raises:
      ValueError: an unknown method.
    """
    if method in WAYS:
        return lv_xattn(q_BTNH, k_BSKH, v_BSKH, block=HOW.block, way=method)
    if method not in OTHERS:
        raise ValueError(f"method: {method!r}; one of {', '.join((*WAYS, *OTHERS))}")
    heads = spec(ROWS, SEQUENCE, TENSOR, ())
    own = functools.partial(OTHERS[method], pieces(SEQUENCE))
    return per_device(own, (heads,) * 3, heads)(q_BTNH, k_BSKH, v_BSKH)


def _gather_keys(n, q, k, v):
    if n > 1:
        k, v = (lax.all_gather(x, SEQUENCE, axis=1, tiled=True) for x in (k, v))
    return _own(q, k, v)


def _alone(n, q, k, v):
    return _own(q, *(jnp.concatenate([x] * n, axis=1) for x in (k, v)))


def _hop(n, q, k, v):
    return send(k, n) if n > 1 else k


OTHERS = {"gather_keys": _gather_keys, "alone": _alone, "hop": _hop}


@jax.custom_vjp
def _own(q, k, v):
    """Attention to all keys that this device holds."""
    return _own_forward(q, k, v)[0]


def _own_forward(q, k, v):
    out, lse = forward("rotate_keys", HOW, q, k, v, None, None)
    return out.astype(q.dtype), (q, k, v, out, lse)


def _own_backward(residuals, dout):
    q, k, v, out, lse = residuals
    delta = jnp.sum(dout.astype(jnp.float32) * out, axis=-1)
    grads = backward("rotate_keys", HOW, q, k, v, None, None, dout, lse, delta)
    return tuple(grad.astype(x.dtype) for grad, x in zip(grads, (q, k, v), strict=True))


_own.defvjp(_own_forward, _own_backward)
