import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lwm.parallel.sharding import batch_shardings, shardings
from lwm.systems import build_model
from lwm.training.optimizers import make_optimizer, make_schedule
from lwm.training.state import TrainState, init_state, shardings_of, state_shapes
from lwm.training.step import make_eval_step, make_train_step

ROWS, LENGTH = 4, 16
RATE = dict(learning_rate=0.01, steps=8, warmup_steps=2)
MODEL = {"name": "lwm", "size": "debug", "vocab_size": 40, "vision_vocab_size": 24, "remat": "none"}

# With the usual epsilon a gradient of rounding errors alone moves its weight by the whole learning rate.
ADAMW = make_optimizer(**RATE, eps=1e-2)


def take_steps(model, batch, mesh, *, steps=1, accumulate=1, optimizer=None):
    """The state and the metrics after so many steps on one batch."""
    optimizer = optimizer or make_optimizer(**RATE)
    with jax.set_mesh(mesh):
        batch = jax.device_put(batch, batch_shardings(batch, mesh) if mesh is not None else None)
        state = init_state(model, optimizer, jax.random.key(5), batch, mesh)
        step = make_train_step(model, optimizer, accumulate=accumulate, schedule=make_schedule(**RATE))
        for _ in range(steps):
            state, metrics = step(state, batch)
        return jax.device_get((state._replace(key=jax.random.key_data(state.key)), metrics))


@pytest.fixture(scope="module")
def one_device(token_batch):
    return take_steps(build_model(MODEL), token_batch(ROWS, LENGTH), None, optimizer=ADAMW)


@pytest.mark.parametrize(
    "axes",
    [
        *(pytest.param({axis: 4}, marks=pytest.mark.slow) for axis in ("data", "fsdp", "seq")),
        pytest.param({"tensor": 2}, marks=pytest.mark.slow),
        {"data": 2, "fsdp": 2, "seq": 2},
    ],
)
def test_one_step_on_a_mesh_is_one_step_on_a_device(axes, mesh_of, token_batch, one_device):
    batch = token_batch(ROWS, LENGTH, ring=axes.get("seq", 1))
    state, metrics = take_steps(build_model(MODEL), batch, mesh_of(**axes), optimizer=ADAMW)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), state, one_device[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), metrics, one_device[1])
    assert metrics["gradient_norm"] > 0.1


@pytest.mark.parametrize("axes", [pytest.param(None, marks=pytest.mark.slow), {"data": 2, "seq": 2}])
def test_microbatches_add_up_to_the_batch(axes, bag, mesh_of, token_batch):
    mesh = mesh_of(**axes) if axes else None
    batch = token_batch(8, LENGTH, ring=(axes or {}).get("seq", 1))
    counts = batch["segments"].max(axis=1)
    assert len({counts[start::4].sum() for start in range(4)}) > 1, "the denominators should be uneven"
    whole, metrics = take_steps(bag(noise=0.0), batch, mesh, steps=3)
    pieces, own_metrics = take_steps(bag(noise=0.0), batch, mesh, steps=3, accumulate=4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), pieces, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), own_metrics, metrics)
    assert metrics["denominator"] == counts.sum()


def test_microbatches_draw_other_numbers(bag, token_batch):
    batch = token_batch(1, LENGTH)
    twice = {name: np.concatenate([array, array]) for name, array in batch.items()}
    once, _ = take_steps(bag(noise=1.0), twice, None, accumulate=2)
    same, _ = take_steps(bag(noise=1.0), twice, None, accumulate=1)
    assert not np.allclose(once.params["lm_head"]["kernel"], same.params["lm_head"]["kernel"])


def test_the_key_of_a_step_comes_from_the_state(bag, token_batch):
    batch, still = token_batch(2, LENGTH), optax.set_to_zero()
    losses = [take_steps(bag(), batch, None, steps=n, optimizer=still)[1]["loss"] for n in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


def test_refresh_runs_every_so_many_steps(bag, token_batch):
    for steps, refreshed in ((1, False), (2, True), (3, False), (4, True)):
        state, _ = take_steps(bag(refresh_every=2), token_batch(2, LENGTH), None, steps=steps)
        assert np.all(state.params["norm"]["scale"] == 7.0) == refreshed


def test_metrics_of_a_step(bag, token_batch):
    model, batch = bag(noise=0.0), token_batch(2, LENGTH)
    state, metrics = take_steps(model, batch, None)
    before = init_state(model, make_optimizer(**RATE), jax.random.key(5), batch)
    (loss, _), gradients = jax.jit(jax.value_and_grad(model.loss, has_aux=True))(
        before.params, batch, jax.random.key(0)
    )
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients)])
    np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(flat), rtol=1e-6)
    assert metrics["gradient_norm"] > 0 and metrics["learning_rate"] == np.float32(0.005)
    assert state.step == 1 and metrics["gradient_norm"].dtype == np.float32


def test_state_lives_where_the_rules_say(bag, mesh_of, token_batch):
    mesh, model, optimizer = mesh_of(fsdp=2, tensor=2, seq=2), bag(), make_optimizer(**RATE)
    batch = jax.device_put(token_batch(4, LENGTH), batch_shardings(token_batch(4, LENGTH), mesh))
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, jax.random.key(0), batch, mesh)
        shapes = state_shapes(model, optimizer, batch, mesh)
        after, _ = make_train_step(model, optimizer)(state, batch)
    wanted = shardings(model.PARTITION_RULES, after.params, mesh)
    moments = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.shape == (40, 16)]
    assert len(moments) == 2
    for array in [after.params["wte"]["embedding"], *moments]:
        assert array.sharding.is_equivalent_to(wanted["wte"]["embedding"], 2)
        assert array.addressable_shards[0].data.shape == (20, 4)
    jax.tree.map(
        lambda found, shape: np.testing.assert_equal(
            (found.shape, found.dtype, found.sharding.is_equivalent_to(shape.sharding, found.ndim)),
            (shape.shape, shape.dtype, True),
        ),
        after,
        shapes,
    )
    assert isinstance(shardings_of(shapes), TrainState)
    assert state.params["wte"]["embedding"].is_deleted(), "the state before should have been donated"


def test_eval_step_is_the_loss(bag, token_batch):
    model, batch = bag(), token_batch(2, LENGTH)
    params = model.init(jax.random.key(0), batch)
    metrics = make_eval_step(model)(params, batch, jax.random.key(1))
    assert metrics["loss"] == jax.jit(model.loss)(params, batch, jax.random.key(1))[0]
    assert jnp.isfinite(metrics["loss"])
