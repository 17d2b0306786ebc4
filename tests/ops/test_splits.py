"""The chooser of splits: its bytes are those of the program, and its order is sensible."""

import functools

import jax
import jax.numpy as jnp
import pytest

from lwm.ops.masks import Mask
from lwm.ops.ring_attention import ring_attention
from lwm.ops.splits import rank_splits


def sent(jaxpr, ulysses):
    """(bytes all-to-all that leave a device, bytes round the ring) of a jaxpr."""
    exchanged = passed = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("all_to_all", "ppermute"):
            size = sum(x.aval.size * x.aval.dtype.itemsize for x in equation.invars)
            if equation.primitive.name == "ppermute":
                passed += size
            else:
                exchanged += size * (ulysses - 1) // ulysses
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in jax.core.jaxprs_in_params(equation.params):
            more = sent(inner, ulysses)
            exchanged, passed = exchanged + times * more[0], passed + times * more[1]
    return exchanged, passed


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_bytes_are_those_of_the_program(mesh_of, kv_heads):
    T, N, H, n = 64, 4, 8, 4
    splits = rank_splits(n=n, length=T, heads=N, kv_heads=kv_heads, head_dim=H, block=8)
    assert sorted(split.ulysses for split in splits) == [1, 2, 4]
    q, k = (jax.ShapeDtypeStruct((1, T, heads, H), jnp.bfloat16) for heads in (N, kv_heads))
    for split in splits:
        fn = functools.partial(ring_attention, ulysses=split.ulysses)
        with jax.set_mesh(mesh_of(seq=n)):
            jaxpr = jax.make_jaxpr(lambda q, k, v, d, fn=fn: jax.vjp(fn, q, k, v)[1](d))(q, k, k, q)
        assert sent(jaxpr.jaxpr, split.ulysses) == (split.exchanged, split.passed)


def test_what_it_prefers():
    shape = {"n": 8, "heads": 32, "head_dim": 128}
    # Long: a ring hides everything it sends. Short: its hops do not, and a few exchanges cost less.
    assert rank_splits(length=2**20, kv_heads=8, **shape)[0].ulysses == 1
    assert rank_splits(length=2**14, kv_heads=32, **shape)[0].ulysses > 1
    # Contiguous causal shards are unbalanced; with all devices in one group nothing is.
    best = rank_splits(length=2**17, kv_heads=8, layout="contiguous", **shape)[0]
    assert best.ring == 1 and best.balance == pytest.approx(1.0)
    # A window that reaches one neighbour sends next to nothing round the ring.
    options = {"length": 2**20, "kv_heads": 8, "layout": "contiguous", "mask": Mask(window=4096)}
    assert "in 1 hops" in next(s.reason for s in rank_splits(**options, **shape) if s.ulysses == 1)
    texts = [split.reason for split in rank_splits(length=2**17, kv_heads=2, **shape)]
    assert any("every key/value head is sent 4 times" in text for text in texts)


@pytest.mark.parametrize(
    "bad, words", [({"n": 0}, "n: 0"), ({"kv_heads": 3}, "heads: 4"), ({"layout": "x"}, "layout: 'x'")]
)
def test_arguments_that_cannot_be(bad, words):
    with pytest.raises(ValueError, match=words):
        rank_splits(**({"n": 2, "length": 64, "heads": 4, "kv_heads": 2, "head_dim": 8} | bad))
