"""Feed-forward and cross-entropy in chunks along the sequence (BPT, arXiv 2305.19370).

Chunks are taken inside the shard of each device: a sequence cut over "seq" is never gathered, and gradients
of weights add up on each device and are reduced once, not once a chunk.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from lwm.ops.axes import ROWS, SEQUENCE, TENSOR, active, check_divides, constrain, per_device, pieces, spec


def feedforward(fn: Callable[[jax.Array], jax.Array], x_BTD: jax.Array, *, chunk: int) -> jax.Array:
    """Applies a position-wise function to `chunk` positions of every device at a time.

    Args:
      fn: maps [B, any, D] to an array of the same first two dimensions, each position by itself. It may close
        over weights.
      x_BTD: B cut over ("data", "fsdp") and T over "seq", if the mesh in context has them.
      chunk: positions of a device at a time, the last chunk filled up with zeros. 0: plain `fn(x_BTD)`.

    Returns:
      `fn(x_BTD)`. With a chunk, neither it nor its gradient (which computes `fn` again) holds more than one
      chunk of what `fn` computes inside.

    Raises:
      ValueError: the mesh does not divide B or T.
    """
    B, T, D = x_BTD.shape
    check_divides("B", B, ROWS)
    check_divides("T", T, SEQUENCE)
    r, n = pieces(ROWS), pieces(SEQUENCE)
    b, t = B // r, T // n
    tokens = spec(ROWS, SEQUENCE)
    if not chunk or chunk >= t:
        return constrain(fn(constrain(x_BTD, tokens)), tokens)
    # One leading entry per shard, for weights as well: their gradients then stay on their device to the end.
    shards = x_BTD.reshape(r, b, n, t, D).swapaxes(1, 2).reshape(r * n, b, t, D)
    chunks = _chunks(_on_each_shard(shards), chunk, axis=2)
    fn, weights = jax.closure_convert(fn, jax.ShapeDtypeStruct((b, chunk, D), x_BTD.dtype))
    weights = [_on_each_shard(jnp.broadcast_to(w, (r * n, *w.shape))) for w in weights]

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(x):
        return jax.vmap(fn)(x, *weights)

    y = _unchunk(lax.map(one, chunks), t, axis=2)
    y_BTD = y.reshape(r, n, b, t, -1).swapaxes(1, 2).reshape(B, T, -1)
    return constrain(y_BTD, tokens)


def cross_entropy(x_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, *, chunk: int) -> jax.Array:
    """-log softmax(x head)[target] at every position.

    Args:
      x_BTD: any float dtype; B cut over ("data", "fsdp") and T over "seq".
      head_DV: same dtype; V cut over "tensor". If it is cut along D too, it is gathered once, not per chunk.
      targets_BT: ids. One outside the vocabulary gets a finite value that means nothing: give it no weight.
      chunk: positions of a device whose logits are held at a time; the gradient computes them again. 0: all,
        and the logits are kept for the gradient.

    Returns:
      nll_BT in nats, float32. Gradients add up in float32 and have the dtypes of x and head.

    Raises:
      ValueError: the mesh does not divide B, T or V.
    """
    check_divides("B", x_BTD.shape[0], ROWS)
    check_divides("T", x_BTD.shape[1], SEQUENCE)
    check_divides("V", head_DV.shape[1], TENSOR)
    return _cross_entropy(x_BTD, head_DV, targets_BT, chunk)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _cross_entropy(x_BTD, head_DV, targets_BT, chunk):
    return _cross_entropy_forward(x_BTD, head_DV, targets_BT, chunk)[0]


def _cross_entropy_forward(x_BTD, head_DV, targets_BT, chunk):
    def local(x_BTD, head_DV, targets_BT):
        def one(x_BTD, targets_BT):
            logits_BTV = _logits(x_BTD, head_DV)
            top_BT = lax.pmax(jnp.max(logits_BTV, axis=-1), active(TENSOR))
            sum_BT = jnp.sum(jnp.exp(logits_BTV - top_BT[..., None]), axis=-1)
            own_BT = jnp.sum(jnp.where(_hit(logits_BTV, targets_BT), logits_BTV, 0.0), axis=-1)
            sum_BT, own_BT = lax.psum((sum_BT, own_BT), active(TENSOR))
            lse_BT = top_BT + jnp.log(sum_BT)
            return lse_BT - own_BT, lse_BT, logits_BTV

        if not chunk:
            return one(x_BTD, targets_BT)
        T, chunks = x_BTD.shape[1], (_chunks(x_BTD, chunk), _chunks(targets_BT, chunk))
        nll, lse = lax.map(lambda chunk: one(*chunk)[:2], chunks)
        return _unchunk(nll, T), _unchunk(lse, T), None

    tokens = spec(ROWS, SEQUENCE)
    fn = per_device(local, (tokens, spec((), TENSOR), tokens), (tokens, tokens, spec(ROWS, SEQUENCE, TENSOR)))
    nll_BT, lse_BT, logits_BTV = fn(x_BTD, head_DV, targets_BT)
    return nll_BT, (x_BTD, head_DV, targets_BT, lse_BT, logits_BTV)


def _cross_entropy_backward(chunk, residuals, dnll_BT):
    def local(head_DV, *rest):
        def add(dhead_DV, chunk):
            x_BTD, targets_BT, lse_BT, dnll_BT, logits_BTV = chunk
            logits_BTV = _logits(x_BTD, head_DV) if logits_BTV is None else logits_BTV
            p_BTV = jnp.exp(logits_BTV - lse_BT[..., None])
            dlogits_BTV = (p_BTV - _hit(logits_BTV, targets_BT)) * dnll_BT[..., None]
            dlogits_BTV = dlogits_BTV.astype(x_BTD.dtype)
            dhead_DV += _product("BTD,BTV->DV", x_BTD, dlogits_BTV)
            return dhead_DV, _product("BTV,DV->BTD", dlogits_BTV, head_DV)

        dhead_DV = jnp.zeros(head_DV.shape, jnp.float32)
        if chunk:
            chunks = jax.tree.map(lambda x: _chunks(x, chunk), rest)
            dhead_DV, dx = lax.scan(add, dhead_DV, chunks)
            dx_BTD = _unchunk(dx, rest[0].shape[1])
        else:
            dhead_DV, dx_BTD = add(dhead_DV, rest)
        return lax.psum(dx_BTD, active(TENSOR)), lax.psum(dhead_DV, active(ROWS + SEQUENCE))

    x_BTD, head_DV, targets_BT, lse_BT, logits_BTV = residuals
    tokens, head = spec(ROWS, SEQUENCE), spec((), TENSOR)
    in_specs = head, tokens, tokens, tokens, tokens, spec(ROWS, SEQUENCE, TENSOR)
    dx_BTD, dhead_DV = per_device(local, in_specs, (tokens, head))(
        head_DV, x_BTD, targets_BT, lse_BT, dnll_BT, logits_BTV
    )
    return dx_BTD.astype(x_BTD.dtype), dhead_DV.astype(head_DV.dtype), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _product(formula, a, b):
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _logits(x_BTD, head_DV):
    return _product("BTD,DV->BTV", x_BTD, head_DV)


def _hit(logits_BTV, targets_BT):
    """True where V, which is this device's share of the vocabulary, is the target."""
    V = logits_BTV.shape[-1]
    first = lax.axis_index(active(TENSOR)) * V if active(TENSOR) else 0
    return first + jnp.arange(V) == targets_BT[..., None]


def _chunks(x, chunk, axis=1):
    """Cuts an axis into chunks, the last filled up with zeros, and puts their number first."""
    fill = [(0, -x.shape[axis] % chunk if i == axis else 0) for i in range(x.ndim)]
    x = jnp.pad(x, fill)
    return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, chunk, *x.shape[axis + 1 :]), axis, 0)


def _unchunk(chunks, length, axis=1):
    """Undoes `_chunks`."""
    x = jnp.moveaxis(chunks, 0, axis)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return lax.slice_in_dim(x, 0, length, axis=axis)


def _on_each_shard(x):
    """Lays the first axis over all the devices that hold different positions; the others as they come."""
    rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
    return constrain(x, PartitionSpec(active(ROWS + SEQUENCE), *rest))
