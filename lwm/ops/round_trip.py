"""A trip of every shard round the ring of devices, with something that grows on the way brought home.

On each device there is a *visitor*, which sees all devices, and a *home*, which all visitors see. Both may
take something along from a visit: the home is changed by it, and the visitor's *result* grows by it. In
cross-attention with travelling queries the visitors are queries, homes are keys, values and their gradients,
and results are (out, lse) or dq; with travelling keys it is the other way round.

    hops of the visitor   n - 1   (the last device that it sees sends only the result home)
    hops of the result    n - 1   (it sets out from the first device after its own)

No transfer is waited for by the work that it runs beside. A visitor goes on to the next device before it is
looked at, and a result follows one visit behind: while a device works on its new visitor, that visitor's
result of *earlier* visits is still on its way, and the two are joined at the end of the visit. What remains
is the first transfer of visitors and the last of results, for which there is no visit beside them; there the
device sees its own shard, one half of it at the beginning and the other half at the end.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lwm.ops.axes import SEQUENCE
from lwm.ops.wire import in_sixteen_bits


def round_trip(
    visitor: Any,
    home: Any,
    visit: Callable[[Any, Any], tuple[Any, Any]],
    join: Callable[[Any, Any], Any],
    *,
    n: int,
    send_visitor: Callable[[Any], Any],
    send_result: Callable[[Any], Any],
) -> tuple[Any, Any]:
    """Lets every visitor see every home; runs on each device of "seq" inside `per_device`.

    Args:
      visitor: arrays [B, T, ...] of this device, T at least 2 if n > 1.
      home: arrays that stay, or None.
      visit: (home, visitor) -> (home, result); must also take a half of a visitor along T. Results are arrays
        [B, T, ...], or None if there is nothing to bring home.
      join: (result, result) -> result of both visits.
      n: devices on "seq"; with 1 there is one visit and nothing is sent.
      send_visitor, send_result: bring their argument to the next device and return what arrives (`send`,
        around it whatever form it has on the wire).

    Returns:
      (home after all visits, result of this device's own visitor).
    """
    if n == 1:
        return visit(home, visitor)

    def pass_on(carry, _):
        home, visitor, result = carry
        following, earlier = send_visitor(visitor), send_result(result)
        home, result = visit(home, visitor)
        return (home, following, join(earlier, result)), None

    visitor = lax.optimization_barrier(visitor)
    travelling = send_visitor(visitor)
    home, own_first = visit(home, _half(visitor, 0))
    following = send_visitor(travelling) if n > 2 else None
    home, result = visit(home, travelling)
    if n > 2:
        (home, travelling, result), _ = lax.scan(pass_on, (home, following, result), length=n - 3)
        earlier = send_result(result)
        home, result = visit(home, travelling)
        result = join(earlier, result)
    # Without this a scheduler may see its own second half earlier, and wait for the last transfer idly.
    result, visitor = lax.optimization_barrier((result, visitor))
    back = send_result(result)
    home, own_second = visit(home, _half(visitor, 1))
    own = jax.tree.map(lambda *halves: jnp.concatenate(halves, axis=1), own_first, own_second)
    return home, join(back, own)


def send(tree: Any, n: int) -> Any:
    """To the next device on the ring; what arrives is what the previous one sent."""
    ring = [(i, (i + 1) % n) for i in range(n)]
    return in_sixteen_bits(lambda bits: lax.ppermute(bits, SEQUENCE, ring), tree)


def _half(tree, which):
    return jax.tree.map(lambda x: jnp.split(x, [x.shape[1] // 2], axis=1)[which], tree)
