"""What `lv_xattn_network.py` compares: one cross-attention by each method, compiled over all hosts.

rotate_queries   LV-XAttn
rotate_keys      ring attention: keys and values travel, and their gradients with them
gather_keys      every device takes all keys and values, computes, and gets the gradients of its own back
                 (an all-gather, and the reduce-scatter that is its transpose)
queries_alone,   the same as LV-XAttn and as the ring, with nothing sent: each device gets back what it would
keys_alone       have sent, so that it does all that it does otherwise and never waits
hop              k goes to the next device, and nothing else: what the link carries

What goes to the next device together goes as one message, and two hosts send in turns. Gloo has one
connection between two hosts and sends nothing before the other has announced that it waits for it; an
announcement that gets behind an array waits until all of that is through. So two hosts that send to each
other do it at once or one after the other, as chance has it (a "hop" of 8 MB at 200 Mbit/s: 0.34 or 0.67 s),
and two arrays at a time made it worse. In a ring of more hosts every pair has one direction.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, per_device, pieces, spec
from lwm.ops.lv_xattn import attend_shards
from lwm.ops.masks import Mask
from lwm.ops.round_trip import send
from lwm.ops.xattn_ways import How
from lwm.parallel.mesh import make_mesh

BLOCK = 512


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
    if method not in METHODS:
        raise ValueError(f"method: {method!r}; one of {', '.join(METHODS)}")
    heads = spec(ROWS, SEQUENCE, TENSOR, ())
    own = functools.partial(METHODS[method], pieces(SEQUENCE))
    return per_device(own, (heads,) * 3, heads)(q_BTNH, k_BSKH, v_BSKH)


def in_one_message(collective: Callable[[jax.Array], jax.Array], tree: Any) -> Any:
    """`collective` of all arrays of the tree, of 32 bits each, laid into one."""
    arrays, form = jax.tree.flatten(tree)
    if not arrays:
        return tree
    message = jnp.concatenate([lax.bitcast_convert_type(x, jnp.uint32).ravel() for x in arrays])
    ends = np.cumsum([x.size for x in arrays])[:-1]
    arrived = jnp.split(collective(message), ends)
    return form.unflatten(
        lax.bitcast_convert_type(bits.reshape(x.shape), x.dtype)
        for bits, x in zip(arrived, arrays, strict=True)
    )


def _send(tree, n):
    return in_one_message(_in_turns if n == 2 else functools.partial(send, n=n), tree)


def _in_turns(message):
    """What two hosts send each other: first the one, then the other."""
    late = lax.axis_index(SEQUENCE) == 1
    first = lax.ppermute(message, SEQUENCE, [(0, 1)])
    # The early host has sent when this is there, the late one has received.
    second = lax.ppermute(jnp.where(late, message, first), SEQUENCE, [(1, 0)])
    return jnp.where(late, first, second)


def _keep(tree, n):
    """What `_send` does besides sending."""
    return in_one_message(lax.optimization_barrier, tree)


def _rotate(way, transfer, n, q, k, v):
    how = How(n=n, mask=Mask(causal=False), block=BLOCK, send=transfer)
    return attend_shards(way, how, q, k, v, None, None)


def _gather_keys(n, q, k, v):
    if n > 1:
        k, v = (lax.all_gather(x, SEQUENCE, axis=1, tiled=True) for x in (k, v))
    return _rotate("rotate_keys", _send, 1, q, k, v)


def _hop(n, q, k, v):
    return send(k, n) if n > 1 else k


METHODS = {
    "rotate_queries": functools.partial(_rotate, "rotate_queries", _send),
    "rotate_keys": functools.partial(_rotate, "rotate_keys", _send),
    "gather_keys": _gather_keys,
    "queries_alone": functools.partial(_rotate, "rotate_queries", _keep),
    "keys_alone": functools.partial(_rotate, "rotate_keys", _keep),
    "hop": _hop,
}
