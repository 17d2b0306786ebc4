"""Rules to shardings: parameters, optimizer state, batches, and the errors that name what is wrong."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from lwm.parallel.sharding import BATCH, batch_shardings, constrain, shardings, specs

RULES = (
    (r"attention/w[qkv]$", P(None, ("fsdp", "seq"), "tensor")),
    (r"norm/scale$", P(None)),
    (r"embedding$", P("tensor")),
)


def params(width=8):
    return {
        "layers": {"attention": {"wq": jnp.ones((2, width, 4)), "wk": jnp.ones((2, width, 2))}},
        "norm": {"scale": jnp.ones((width,))},
        "wte": {"embedding": jnp.ones((6, width))},
        "count": jnp.zeros((), jnp.int32),
    }


def test_specs_follow_the_first_rule_that_matches():
    tree = specs(((r"wk$", P("seq")), *RULES), params())
    assert tree["layers"]["attention"]["wk"] == P("seq")
    assert tree["layers"]["attention"]["wq"] == P(None, ("fsdp", "seq"), "tensor")
    assert tree["count"] == P()


def test_optimizer_state_takes_the_shardings_of_its_parameters(mesh_of):
    mesh = mesh_of(fsdp=2, seq=2, tensor=2)
    state = jax.eval_shape(optax.adamw(1e-3).init, params())
    of_params, of_state = shardings(RULES, params(), mesh), shardings(RULES, state, mesh)
    assert of_state[0].mu == of_params
    assert of_state[0].nu == of_params
    assert of_state[0].count.spec == P()


def test_arrays_land_as_the_rules_say(mesh_of):
    mesh = mesh_of(fsdp=2, seq=2, tensor=2)
    placed = jax.device_put(params(), shardings(RULES, params(), mesh))
    wq = placed["layers"]["attention"]["wq"]
    assert {shard.data.shape for shard in wq.addressable_shards} == {(2, 2, 2)}


@pytest.mark.parametrize(
    "rules, tree, words",
    [
        (RULES, {"head": {"kernel": jnp.ones((2, 2))}}, ("head/kernel", "no partition rule")),
        (RULES, {"attention": {"wq": jnp.ones((8, 4))}}, ("attention/wq", "(8, 4)", "3 dimensions")),
        (RULES, params(width=6), ("layers/attention/wk", "dimension 1", "6", "fsdp=2 x seq=2")),
        (((r".", P("expert")),), {"w": jnp.ones((2, 2))}, ("w", "'expert'")),
    ],
)
def test_errors_name_the_parameter_and_the_dimension(mesh_of, rules, tree, words):
    with pytest.raises(ValueError) as error:
        shardings(rules, tree, mesh_of(fsdp=2, seq=2, tensor=2))
    assert all(word in str(error.value) for word in words), error.value


def test_batches_are_cut_along_rows_and_positions(mesh_of):
    mesh = mesh_of(data=2, fsdp=2, seq=2)
    shapes = {
        "tokens": jax.ShapeDtypeStruct((8, 16), jnp.int32),
        "images": jax.ShapeDtypeStruct((8, 4, 4, 3), jnp.uint8),
        "frames": jax.ShapeDtypeStruct((8, 6, 4, 4, 3), jnp.uint8),
        "features": jax.ShapeDtypeStruct((8, 6, 5, 7), jnp.float32),
    }
    found = batch_shardings(shapes, mesh)
    assert found["tokens"].spec == P(BATCH, "seq")
    assert found["images"].spec == P(BATCH)
    assert found["frames"].spec == found["features"].spec == P(BATCH, "seq")
    by_kind = batch_shardings({"caption": {"targets": shapes["tokens"], "frames": shapes["frames"]}}, mesh)
    assert by_kind["caption"]["targets"].spec == by_kind["caption"]["frames"].spec == P(BATCH)
    for shape, axis in (((6, 16), "data=2 x fsdp=2"), ((8, 15), "seq=2")):
        with pytest.raises(ValueError, match=f"batch/tokens.*{axis}"):
            batch_shardings({"tokens": jax.ShapeDtypeStruct(shape, jnp.int32)}, mesh)
    with pytest.raises(ValueError, match="batch/frames: dimension 1 has 5 entries, not a multiple of seq=2"):
        batch_shardings({"frames": jax.ShapeDtypeStruct((8, 5, 4, 4, 3), jnp.uint8)}, mesh)


def test_constrain_needs_no_mesh(mesh_of):
    x = jnp.ones((4, 8))
    assert constrain(x, BATCH, "seq") is x
    with jax.set_mesh(mesh_of(data=2, seq=4)):
        y = jax.jit(lambda x: constrain(x + 1, BATCH, "seq"))(x)
    assert {shard.data.shape for shard in y.addressable_shards} == {(2, 2)}
