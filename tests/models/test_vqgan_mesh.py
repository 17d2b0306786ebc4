"""The VQGAN on a mesh computes what it computes on one device, and its rules fit every size."""

import functools

import jax
import numpy as np
import pytest

from lwm.models.vqgan import SIZES, VQGAN, VQGANConfig
from lwm.parallel.sharding import batch_shardings, shardings

MODEL = VQGAN(
    VQGANConfig(
        resolution=8, channels=8, multipliers=(1, 2), blocks=0, latent_channels=4, codes=16, code_channels=4,
        groups=4, adversarial_weight=0.5, discriminator_channels=8, discriminator_layers=1,
    )
)  # fmt: skip
BATCH = {"images": np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)}
step = jax.value_and_grad(MODEL.loss, has_aux=True)


@pytest.fixture(scope="module")
def params():
    """Random numbers of about the size that `init` draws, without the time that compiling it takes."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(MODEL.init, jax.random.key(0), BATCH)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture(scope="module")
def alone(params):
    return jax.device_get(jax.jit(step)(params, BATCH, None))


def on_mesh(mesh, params):
    params = jax.device_put(params, shardings(MODEL.PARTITION_RULES, params, mesh))
    return params, jax.device_put(BATCH, batch_shardings(BATCH, mesh))


@pytest.mark.parametrize("axes", [dict(data=8), dict(fsdp=4, seq=2), dict(data=2, tensor=2, fsdp=2)], ids=str)
def test_loss_and_gradients_on_a_mesh(axes, mesh_of, params, alone):
    mesh = mesh_of(**axes)
    with jax.set_mesh(mesh):
        sharded, batch = on_mesh(mesh, params)
        (loss, metrics), gradients = jax.device_get(jax.jit(step)(sharded, batch, None))
    (loss_alone, metrics_alone), gradients_alone = alone
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(loss, loss_alone)
    jax.tree.map(close, metrics, metrics_alone)
    jax.tree.map(close, gradients, gradients_alone)


def test_refresh_and_codes_on_a_mesh(mesh_of, params):
    params = params | {"codebook": {"embedding": params["codebook"]["embedding"] + 100.0 * np.eye(16, 4)}}
    refreshed = jax.jit(MODEL.refresh)(params, BATCH, jax.random.key(2))
    mesh = mesh_of(data=8)
    with jax.set_mesh(mesh):
        sharded, batch = on_mesh(mesh, params)
        on_devices = jax.jit(MODEL.refresh)(sharded, batch, jax.random.key(2))
        codes_BP = jax.device_get(MODEL.encode(on_devices, batch["images"]))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), refreshed, on_devices)
    np.testing.assert_array_equal(codes_BP, MODEL.encode(refreshed, BATCH["images"]))


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("axes", [dict(data=8), dict(fsdp=8), dict(fsdp=2, seq=2, tensor=2)], ids=str)
@pytest.mark.parametrize("adversarial_weight", [0.0, 0.1])
def test_the_rules_fit_every_size(size, axes, adversarial_weight, mesh_of):
    model = VQGAN(VQGANConfig(**SIZES[size], adversarial_weight=adversarial_weight))
    shapes = jax.eval_shape(model.init, jax.random.key(0), {})
    placed = shardings(model.PARTITION_RULES, shapes, mesh_of(**axes))
    spread = axes.get("fsdp", 1) * axes.get("seq", 1)
    kernel = placed["encoder"]["middle_0"]["conv_1"]["kernel"]
    whole = shapes["encoder"]["middle_0"]["conv_1"]["kernel"].shape
    assert kernel.shard_shape(whole)[-1] == whole[-1] // spread
