import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.training.optimizers import decayed, make_optimizer, make_schedule


@pytest.mark.parametrize(
    "kind, end, expected",
    [
        ("constant", 0.0, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", 0.2, [0.25, 0.5, 0.75, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]),
        ("cosine", 0.2, [0.25, 0.5, 0.75, 1.0, 1.0, 0.8828427, 0.6, 0.3171573, 0.2]),
    ],
)
def test_schedule_values(kind, end, expected):
    schedule = make_schedule(learning_rate=1.0, end_learning_rate=end, warmup_steps=4, steps=8, schedule=kind)
    np.testing.assert_allclose([schedule(step) for step in range(9)], expected, rtol=1e-6)


def test_no_warmup_and_nothing_but_warmup():
    assert make_schedule(learning_rate=2.0, steps=3)(0) == 2.0
    rates = make_schedule(learning_rate=2.0, steps=2, warmup_steps=2)
    assert [float(rates(step)) for step in range(2)] == [1.0, 2.0]
    assert float(make_schedule(learning_rate=2.0, steps=1, warmup_steps=1)(0)) == 2.0
    with pytest.raises(ValueError, match="sawtooth"):
        make_schedule(learning_rate=1.0, steps=1, schedule="sawtooth")


PARAMS = {
    "layers": {
        "attention": {"wq": jnp.ones((2, 3, 4))},
        "attention_norm": {"scale": jnp.ones((2, 3))},
        "ffn": {"bias": jnp.ones((2, 3))},
    },
    "codebook": {"embedding": jnp.ones((5, 3))},
    "wte": {"embedding": jnp.ones((5, 3))},
    "gain": jnp.ones(3),
}


def test_only_matrices_decay():
    assert decayed(PARAMS) == {
        "layers": {"attention": {"wq": True}, "attention_norm": {"scale": False}, "ffn": {"bias": False}},
        "codebook": {"embedding": False},
        "wte": {"embedding": True},
        "gain": False,
    }


def test_a_step_without_gradient_is_decay_alone():
    optimizer = make_optimizer(learning_rate=0.5, steps=10, weight_decay=0.1)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["wte"]["embedding"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["codebook"]["embedding"], 0.0)


def test_adam_by_hand_with_clipping():
    params, gradient = {"w": jnp.zeros(2)}, {"w": jnp.array([3.0, 4.0])}
    optimizer = make_optimizer(learning_rate=0.1, steps=10, b1=0.9, b2=0.95, eps=0.1, clip=1.0)
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    clipped = np.array([0.6, 0.8])
    np.testing.assert_allclose(updates["w"], -0.1 * clipped / (clipped + 0.1), rtol=1e-5)
    free = make_optimizer(learning_rate=0.1, steps=10, eps=0.1, clip=0.0)
    updates, _ = free.update(gradient, free.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.1 * gradient["w"] / (gradient["w"] + 0.1), rtol=1e-5)
