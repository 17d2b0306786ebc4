"""Chunks of the feed-forward and of the loss against the plain formulas, on one device and on meshes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lwm.ops.blockwise import cross_entropy, feedforward

MESHES = [None, {"data": 2, "seq": 4}, {"fsdp": 2, "tensor": 2, "seq": 2}, {"data": 2, "fsdp": 2, "seq": 2}]
B, T, D, F, V = 4, 40, 6, 8, 12
X, HEAD = P(("data", "fsdp"), "seq"), P(("fsdp", "seq"), "tensor")


@pytest.fixture
def arrays(rng):
    shapes = {
        "x": (B, T, D * 4),
        "wide": (D * 4, F),
        "back": (F, D * 4),
        "head": (D * 4, V),
        "weights": (B, T),
    }
    made = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    return made | {"targets": jnp.asarray(rng.integers(0, V, size=(B, T)), jnp.int32)}


SPECS = {"x": X, "wide": HEAD, "back": P("tensor", ("fsdp", "seq")), "head": HEAD, "weights": X, "targets": X}


def ffn_loss(apply, arrays):
    """A scalar of a position-wise gated layer that closes over its weights."""
    y = apply(lambda x: jnp.tanh(x @ arrays["wide"]) @ arrays["back"], arrays["x"])
    return jnp.sum(y * arrays["weights"][..., None])


def nll_loss(apply, arrays):
    return jnp.sum(apply(arrays["x"], arrays["head"], arrays["targets"]) * arrays["weights"])


def plain_nll(x, head, targets):
    return -jnp.take_along_axis(jax.nn.log_softmax(x @ head), targets[..., None], axis=-1)[..., 0]


def value_and_grad(mesh, loss, apply, arrays):
    """Value, gradients of all float arrays, and the compiled text."""
    floats = {name: x for name, x in arrays.items() if name != "targets"}
    step = jax.value_and_grad(lambda floats, targets: loss(apply, floats | {"targets": targets}))
    if mesh is None:
        return *jax.jit(step)(floats, arrays["targets"]), ""
    with jax.set_mesh(mesh):
        place = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
        floats, targets = jax.device_put(
            (floats, arrays["targets"]), ({n: place[n] for n in floats}, place["targets"])
        )
        outs = None, {name: place[name] for name in floats}
        compiled = jax.jit(step, out_shardings=outs).lower(floats, targets).compile()
        return *compiled(floats, targets), compiled.as_text()


def close(got, want):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5, rtol=1e-5), got, want)


def gathered(text):
    """Element counts of everything that the compiled program gathers from other devices."""
    shapes = re.findall(r"\w+\[([\d,]+)\][^ ]* all-gather", text)
    return [int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes]


@pytest.mark.parametrize("axes", MESHES)
@pytest.mark.parametrize("chunk", [3, 5, 100])
def test_feedforward_in_chunks_is_plain(mesh_of, arrays, axes, chunk):
    mesh = mesh_of(**axes) if axes else None
    apply = functools.partial(feedforward, chunk=chunk)
    *got, text = value_and_grad(mesh, ffn_loss, apply, arrays)
    want = jax.jit(jax.value_and_grad(lambda arrays: ffn_loss(lambda fn, x: fn(x), arrays), allow_int=True))(
        arrays
    )
    want[1].pop("targets")
    close(tuple(got), want)
    # Weights may be gathered, positions never: a shard of x is larger than any weight here.
    assert max(gathered(text), default=0) <= D * 4 * F


@pytest.mark.parametrize("axes", MESHES)
@pytest.mark.parametrize("chunk", [0, 3, 5, 100])
def test_cross_entropy_in_chunks_is_plain(mesh_of, arrays, axes, chunk):
    mesh = mesh_of(**axes) if axes else None
    *got, text = value_and_grad(mesh, nll_loss, functools.partial(cross_entropy, chunk=chunk), arrays)
    want = jax.jit(jax.value_and_grad(lambda arrays: nll_loss(plain_nll, arrays), allow_int=True))(arrays)
    want[1].pop("targets")
    close(tuple(got), want)
    assert max(gathered(text), default=0) <= D * 4 * V


def test_weights_are_reduced_once_and_not_per_chunk(mesh_of, arrays):
    """No collective of a weight's size stands inside a loop."""
    apply = functools.partial(feedforward, chunk=5), functools.partial(cross_entropy, chunk=5)
    for loss, fn in zip((ffn_loss, nll_loss), apply, strict=True):
        text = value_and_grad(mesh_of(data=2, seq=4), loss, fn, arrays)[-1]
        entry = text[text.index("\nENTRY ") :]
        assert re.search(r"all-reduce(-start)?\(", entry)
        assert not re.search(r"all-(reduce|gather)(-start)?\(", text[: text.index("\nENTRY ")])


def test_logits_of_all_positions_are_never_held(arrays):
    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    arrays = arrays | {"head": jnp.ones((D * 4, 100))}
    step = jax.grad(lambda x: nll_loss(functools.partial(cross_entropy, chunk=5), arrays | {"x": x}))
    assert max(sizes(jax.make_jaxpr(step)(arrays["x"]).jaxpr)) < B * T * 100
    assert max(sizes(jax.make_jaxpr(step)(arrays["x"]).jaxpr)) >= B * 5 * 100


def test_dtypes_and_targets_outside_the_vocabulary(arrays):
    x, head = arrays["x"].astype(jnp.bfloat16), arrays["head"].astype(jnp.bfloat16)
    targets = arrays["targets"].at[0, 0].set(V + 3).at[0, 1].set(-1)
    nll, pull = jax.vjp(lambda x, head: cross_entropy(x, head, targets, chunk=7), x, head)
    grads = pull(jnp.ones_like(nll))
    assert nll.dtype == jnp.float32 and all(grad.dtype == jnp.bfloat16 for grad in grads)
    assert np.all(np.isfinite(nll)) and all(np.all(np.isfinite(np.float32(grad))) for grad in grads)
    want = plain_nll(arrays["x"], arrays["head"], arrays["targets"])
    np.testing.assert_allclose(nll[1:], want[1:], rtol=0.05, atol=0.2)


def test_sizes_that_the_mesh_does_not_cut(mesh_of, arrays):
    x, head, targets = arrays["x"], arrays["head"], arrays["targets"]
    with jax.set_mesh(mesh_of(data=2, tensor=2, seq=2)):
        for bad, letter in (
            ((x[:3], head, targets[:3]), "B: 3"),
            ((x[:, :5], head, targets[:, :5]), "T: 5"),
            ((x, head[:, :11], targets), "V: 11"),
        ):
            with pytest.raises(ValueError, match=letter):
                jax.eval_shape(functools.partial(cross_entropy, chunk=2), *bad)
        with pytest.raises(ValueError, match="T: 5"):
            jax.eval_shape(lambda x: feedforward(jnp.tanh, x, chunk=2), x[:, :5])
