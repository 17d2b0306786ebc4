"""Gating, its two losses and the experts behind it, against loops over single tokens in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.ops.moe import NOISE_FLOOR, cv_squared, noisy_top_k
from lwm.ops.moe_dispatch import capacity, mix

B, T, D, E, F, k = 8, 6, 4, 8, 5, 2
RNG = np.random.default_rng(0)


def draw(*shape, scale=1.0):
    return (scale * RNG.normal(size=shape)).astype(np.float32)


X, GATE, NOISE, W1, W2 = draw(B, T, D), draw(D, E), draw(D, E, scale=0.3), draw(E, D, F), draw(E, F, D)
VALID = RNG.random((B, T)) < 0.8


def slow_routes(x, gate, noise, valid, k, drawn=None):
    """Dense gates [B, T, E], importance and load, token by token as the paper writes them."""
    experts = gate.shape[1]
    gates, load = np.zeros((*x.shape[:2], experts)), np.zeros(experts)
    for b, t in np.ndindex(x.shape[:2]):
        if not valid[b, t]:
            continue
        clean = x[b, t] @ gate
        deviation = np.log1p(np.exp(x[b, t] @ noise)) + NOISE_FLOOR
        noisy = clean + (0 if drawn is None else drawn[b, t] * deviation)
        best = np.argsort(-noisy)[:k]
        weights = np.exp(noisy[best] - noisy[best].max())
        gates[b, t, best] = weights / weights.sum()
        for e in range(experts):
            if drawn is None or k == experts:
                load[e] += e in best
            else:
                threshold = np.sort(np.delete(noisy, e))[-k]
                load[e] += 0.5 * (1 + math.erf((clean[e] - threshold) / deviation[e] / math.sqrt(2)))
    return gates, gates.sum(axis=(0, 1)), load


def dense_gates(routes, experts=E):
    return jnp.sum(jax.nn.one_hot(routes.experts, experts) * routes.gates[..., None], axis=-2)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("k", [1, 2, E])
def test_gates_importance_and_load_are_those_of_the_reference(k, noisy):
    key = jax.random.key(1) if noisy else None
    drawn = np.asarray(jax.random.normal(key, (B, T, E))) if noisy else None
    routes = noisy_top_k(X, GATE, NOISE, VALID, k=k, key=key)
    expected = slow_routes(X, GATE, NOISE, VALID, k, drawn)
    for ours, theirs in zip((dense_gates(routes), routes.importance_E, routes.load_E), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_gradients_of_gating_are_those_of_the_reference():
    """By central differences of the slow reference, in float64, with the noise held fixed."""
    key, weights = jax.random.key(1), draw(B, T, E)
    drawn = np.asarray(jax.random.normal(key, (B, T, E)), np.float64)

    def ours(gate, noise):
        routes = noisy_top_k(X, gate, noise, VALID, k=k, key=key)
        balance = cv_squared(routes.importance_E) + cv_squared(routes.load_E)
        return jnp.sum(dense_gates(routes) * weights) + balance

    def theirs(gate, noise):
        gates, importance, load = slow_routes(X.astype(np.float64), gate, noise, VALID, k, drawn)
        return (gates * weights).sum() + sum(s.var() / s.mean() ** 2 for s in (importance, load))

    found = jax.grad(ours, argnums=(0, 1))(GATE, NOISE)
    for argument in range(2):
        for d, e in ((0, 1), (2, 5), (3, 7)):
            step = np.zeros((D, E))
            step[d, e] = 1e-6
            pair = [
                (GATE + s * step * (argument == 0), NOISE + s * step * (argument == 1)) for s in (1.0, -1.0)
            ]
            slope = (theirs(*pair[0]) - theirs(*pair[1])) / 2e-6
            np.testing.assert_allclose(found[argument][d, e], slope, rtol=2e-3, atol=1e-4)


def test_balance_is_zero_when_all_experts_are_used_alike_and_only_then():
    for sums in (jnp.full(E, 3.5), jnp.ones(1), jnp.zeros(E)):
        assert cv_squared(sums) == 0
    np.testing.assert_allclose(cv_squared(jnp.array([0.0, 2.0])), 1.0)
    # Each expert is the favourite of one token.
    routes = noisy_top_k(10 * jnp.eye(E)[None], jnp.eye(E), jnp.zeros((E, E)), jnp.ones((1, E), bool), k=1)
    assert cv_squared(routes.importance_E) < 1e-12 and cv_squared(routes.load_E) == 0


def test_more_experts_than_there_are_is_refused():
    with pytest.raises(ValueError, match="k: 9 of 8 experts; choose 1 to 8"):
        noisy_top_k(X, GATE, NOISE, VALID, k=9)


def slow_mix(xs, routes, factor, pieces=1):
    """Token by token; each of `pieces` devices has its own rows and gives places by position, row, choice."""
    outs = [np.zeros(x.shape) for x in xs]
    kept = [np.zeros(route.experts.shape, bool) for route in routes]
    for piece in range(pieces):
        rows = [range(len(x) * piece // pieces, len(x) * (piece + 1) // pieces) for x in xs]
        C = capacity(sum(len(own) * x.shape[1] for own, x in zip(rows, xs, strict=True)), E, k, factor)
        used = np.zeros(E, int)
        for t in range(max(x.shape[1] for x in xs)):
            for i, x in enumerate(xs):
                for b in rows[i] if t < x.shape[1] else ():
                    for choice in range(k):
                        e, gate = int(routes[i].experts[b, t, choice]), float(routes[i].gates[b, t, choice])
                        if gate == 0:
                            continue
                        used[e] += 1
                        if used[e] <= C:
                            kept[i][b, t, choice] = True
                            outs[i][b, t] += gate * (np.maximum(x[b, t] @ W1[e], 0) @ W2[e])
    return outs, kept


XS = (X, draw(2 * B, 3, D))
VALIDS = (VALID, RNG.random((2 * B, 3)) < 0.9)


def routed():
    return [
        noisy_top_k(x, GATE, NOISE, valid, k=k, key=jax.random.key(i))
        for i, (x, valid) in enumerate(zip(XS, VALIDS, strict=True))
    ]


def arguments():
    routes = routed()
    return XS, tuple(route.experts for route in routes), tuple(route.gates for route in routes), W1, W2


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("factor", [pytest.param(0.0, marks=pytest.mark.slow), 1.0, 0.4])
def test_experts_are_those_of_the_reference_also_when_they_are_full(factor):
    outs, kept = mix(*arguments(), capacity_factor=factor)
    expected, expected_kept = slow_mix(XS, routed(), factor)
    close(outs, expected)
    for ours, theirs in zip(kept, expected_kept, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    dropped = sum((np.asarray(route.gates) > 0).sum() for route in routed()) - sum(one.sum() for one in kept)
    assert (dropped == 0) == (factor == 0)


MESHES = [dict(fsdp=2), dict(data=2, fsdp=2), dict(fsdp=8), dict(data=2, fsdp=4)]


@pytest.mark.parametrize("axes", MESHES, ids=str)
def test_several_devices_give_what_one_gives(mesh_of, axes):
    def value(weights, capacity_factor):
        xs, experts, gates, w1, w2 = arguments()
        outs, kept = mix(xs, experts, gates, *weights, capacity_factor=capacity_factor)
        return sum(jnp.sum(jnp.sin(out)) for out in outs), (outs, kept)

    def step(capacity_factor):
        return jax.value_and_grad(functools.partial(value, capacity_factor=capacity_factor), has_aux=True)

    expected = step(0.0)((W1, W2))
    with jax.set_mesh(mesh_of(**axes)):
        close(jax.jit(step(0.0))((W1, W2)), expected)
        (_, (outs, kept)), _ = jax.jit(step(0.6))((W1, W2))
    slow_outs, slow_kept = slow_mix(XS, routed(), 0.6, pieces=axes.get("data", 1) * axes["fsdp"])
    close(outs, slow_outs)
    assert [int(one.sum()) for one in kept] == [int(one.sum()) for one in slow_kept]


def test_the_width_of_experts_may_be_cut_as_well(mesh_of):
    w1, w2 = draw(E, D, 6), draw(E, 6, D)

    def value(weights, xs):
        outs, _ = mix(xs, *arguments()[1:3], *weights, capacity_factor=0.0)
        return sum(jnp.sum(jnp.sin(out)) for out in outs)

    step = jax.value_and_grad(value, argnums=(0, 1))
    expected = step((w1, w2), XS)
    with jax.set_mesh(mesh_of(fsdp=4, tensor=2)):
        close(jax.jit(step)((w1, w2), XS), expected)


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_no_token_feels_a_later_position(factor):
    """Neither through what it gets nor, when experts are full, through the place that it gets."""
    changed = X.copy()
    changed[:, 3:] = draw(B, T - 3, D)

    def out(x):
        routes = noisy_top_k(x, GATE, NOISE, np.ones((B, T), bool), k=k, key=jax.random.key(1))
        return mix((x,), (routes.experts,), (routes.gates,), W1, W2, capacity_factor=factor)[0][0]

    np.testing.assert_array_equal(out(X)[:, :3], out(changed)[:, :3])
    gradient = jax.grad(lambda x: jnp.sum(out(x)[:, :3] ** 2))(X)
    assert not np.any(gradient[:, 3:]) and np.any(gradient[:, :3])


def test_what_a_mesh_does_not_divide_is_refused(mesh_of):
    with (
        jax.set_mesh(mesh_of(fsdp=3)),
        pytest.raises(ValueError, match="E: 8 is not a multiple of mesh axes"),
    ):
        mix(*arguments(), capacity_factor=0.0)
