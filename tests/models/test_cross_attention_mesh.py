"""The same loss and gradients from every way, with and without recomputation, on one device or eight."""

import functools

import jax
import numpy as np
import pytest

from lwm.models.cross_attention import SIZES, CrossAttentionConfig, CrossAttentionLM
from lwm.models.gated_cross import chosen_way
from lwm.parallel.sharding import batch_shardings, shardings

ROW, FRAMES = 32, 8
SMALL = dict(cross_layers=1, attention_block=16)
KEYS, QUERIES, GATHER = "rotate_keys", "rotate_queries", "gather_queries"
EVERY = [(n, way, recompute) for n in (1, 2, 4, 8) for way in (QUERIES, KEYS, GATHER) for recompute in (0, 1)]
SOME = [(8, QUERIES, 1)]


@pytest.fixture(scope="module")
def case(cross):
    """(batch, params, loss and gradients of the dense reference)."""
    model = cross.model(**cross.features | SMALL)
    examples = [cross.example(model.config, *sizes) for sizes in ((0, 9, 3), (1, 20, 4), (2, 30, 8))]
    batch = cross.pack(model.config, [examples[:2], examples[2:]], ROW, FRAMES)
    params = cross.params(model, batch)
    return batch, params, cross.step(cross.dense(model))(params, batch)


def on(cross, mesh, model, params, batch):
    """Loss and gradients on a mesh, everything laid out as in training."""
    batch = cross.in_ring(batch, mesh.shape["seq"])
    places = shardings(model.PARTITION_RULES, params, mesh)
    with jax.set_mesh(mesh):
        return cross.step(model)(*jax.device_put((params, batch), (places, batch_shardings(batch, mesh))))


def check(cross, mesh, case, **changes):
    batch, params, (loss, gradient) = case
    got, got_gradient = on(cross, mesh, cross.model(**cross.features | SMALL | changes), params, batch)
    np.testing.assert_allclose(got, loss, rtol=1e-5)
    cross.close(got_gradient, gradient)


@pytest.mark.parametrize("n, way, recompute", SOME)
def test_loss_and_gradients_are_those_of_the_dense_reference(cross, case, mesh_of, n, way, recompute):
    check(cross, mesh_of(seq=n), case, way=way, recompute=bool(recompute))


@pytest.mark.slow
@pytest.mark.parametrize("n, way, recompute", [how for how in EVERY if how not in SOME])
def test_all_others_too(cross, case, mesh_of, n, way, recompute):
    check(cross, mesh_of(seq=n), case, way=way, recompute=bool(recompute))


@pytest.mark.slow
def test_on_all_axes_of_a_mesh_with_streamed_keys(cross, case, mesh_of):
    check(cross, mesh_of(data=2, tensor=2, seq=2), case, key_block=5)


@pytest.mark.slow
def test_with_an_encoder_and_a_resampler_of_its_own(cross, mesh_of):
    """Weights are cut over "fsdp", heads over "tensor" and frames over "seq"; five frames are filled up."""
    eyes = dict(resampler_layers=1, frame_tokens=2)
    model = cross.model(**SMALL | eyes)
    rows = [[cross.example(model.config, seed, 30, 5)] for seed in (3, 4)]
    batch = cross.pack(model.config, rows, ROW, 5)
    params = cross.params(model, batch)
    expected = cross.step(cross.dense(model))(params, batch)
    mesh = mesh_of(fsdp=2, tensor=2, seq=2)
    places = shardings(model.PARTITION_RULES, params, mesh)
    with jax.set_mesh(mesh):
        cross.close(cross.step(model)(jax.device_put(params, places), cross.in_ring(batch, 2)), expected)


@pytest.mark.parametrize("size", ["llama3v_11b", "owl3_1b", "flamingo_9b"])
def test_large_sizes_have_shardings(mesh_of, size):
    model = CrossAttentionLM(CrossAttentionConfig(**SIZES[size]))
    params = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), shapes(model.config))
    for axes in (dict(data=8), dict(fsdp=8), dict(seq=8), dict(data=2, tensor=2, seq=2)):
        mesh = mesh_of(**axes)
        for rules in (model.PARTITION_RULES, model.SERVING_RULES):
            assert len(jax.tree.leaves(shardings(rules, params, mesh))) == len(jax.tree.leaves(params))


def shapes(config):
    """A batch by shape."""
    R, kinds = config.resolution, dict(is_vision=np.bool_, weights=np.float32)
    names = "tokens", "positions", "segments", "media", "is_vision"
    batch = {name: jax.ShapeDtypeStruct((1, 64), kinds.get(name, np.int32)) for name in names}
    frames = jax.ShapeDtypeStruct((1, 8, R, R, 3), np.uint8)
    return batch | {"frames": frames, "frame_ids": jax.ShapeDtypeStruct((1, 8), np.int32)}


def test_the_way_that_sends_least_is_chosen(cross, mesh_of):
    """Few queries and many keys travel as queries, many queries and few keys as keys."""
    config = cross.model(way="auto", recompute=False).config
    with jax.set_mesh(mesh_of(seq=4)):
        assert chosen_way(config, (1, 64, config.width), 8192) == QUERIES
        assert chosen_way(config, (1, 8192, config.width), 64) == KEYS
