"""The VQGAN: the paper's shapes, what each loss trains, and encoding that can be relied on."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lwm.errors import UserError
from lwm.models.vqgan import SIZES, VQGAN, VQGANConfig, psnr

SMALL = VQGANConfig(
    resolution=16, channels=8, multipliers=(1, 2), blocks=0, latent_channels=6, codes=32, code_channels=4,
    patch=2, groups=4, refresh_every=5, discriminator_channels=8, discriminator_layers=2,
)  # fmt: skip
ADVERSARIAL = dataclasses.replace(SMALL, adversarial_weight=0.5)


def smooth_images(count: int, size: int = 16) -> np.ndarray:
    """Random colour gradients with a soft wave in them: uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    a, b, c, f = rng.uniform(-1, 1, (4, count, 1, 1, 3))
    y, x = y[None, :, :, None], x[None, :, :, None]
    return (127.5 + 60 * (a * y + b * x + c * np.sin(9 * f * (x + y)))).clip(0, 255).astype(np.uint8)


BATCH = {"images": smooth_images(8)}


@pytest.fixture(scope="module")
def params():
    key = jax.random.key(0, impl="rbg")  # compiles in half the time of the default
    return jax.jit(VQGAN(SMALL).init)(key, BATCH)


@pytest.fixture(scope="module")
def adversarial_params(params):
    """With a discriminator of random numbers: compiling `init` again takes longer than those tests."""
    shapes = jax.eval_shape(VQGAN(ADVERSARIAL).init, jax.random.key(0), BATCH)["discriminator"]
    assert shapes["steps"].shape == ()
    rng = np.random.default_rng(0)
    network = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes["network"])
    return params | {"discriminator": {"network": network, "steps": jnp.zeros(())}}


def parts(config: VQGANConfig, params: dict, *names: str) -> tuple[jax.Array, dict, dict]:
    """The loss, its metrics, and for each metric of `names` the parts of the network that it trains."""

    @jax.jit
    def run(params):
        def named(params):
            loss, metrics = VQGAN(config).loss(params, BATCH, None)
            return {name: metrics[name] for name in names}, (loss, metrics)

        return jax.jacrev(named, has_aux=True)(params)

    slopes, (loss, metrics) = run(params)
    trained = {name: {part for part, tree in slopes[name].items() if not is_zero(tree)} for name in names}
    return loss, metrics, trained


def is_zero(tree) -> bool:
    return all(not np.any(leaf) for leaf in jax.tree.leaves(tree))


def shapes_of(size: str) -> tuple[VQGAN, dict, int]:
    model = VQGAN(VQGANConfig(**SIZES[size]))
    params = jax.eval_shape(model.init, jax.random.key(0), {})
    return model, params, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def test_the_papers_network_has_its_shapes_and_146_million_parameters():
    model, params, count = shapes_of("paper")
    print(f"VQGAN, size paper: {count:,} parameters")
    assert round(count / 1e6) == 146
    assert model.config.factor == 16 and model.config.codes_per_frame == 256
    assert params["codebook"]["embedding"].shape == (8192, 64)
    assert params["encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 128)
    assert params["encoder"]["level_4_block_0"]["shortcut"]["kernel"].shape == (1, 1, 512, 768)
    assert params["decoder"]["conv_out"]["kernel"].shape == (3, 3, 128, 3)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    images = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.uint8)
    codes_BP = jax.eval_shape(model.encode, params, images)
    assert (codes_BP.shape, codes_BP.dtype) == ((2, 256), jnp.int32)
    decoded = jax.eval_shape(model.decode, params, codes_BP)
    assert (decoded.shape, decoded.dtype) == (images.shape, images.dtype)


def test_the_tiny_network_makes_64_codes_of_a_frame():
    model, _, count = shapes_of("tiny")
    print(f"VQGAN, size tiny: {count:,} parameters")
    assert model.config.resolution == 64 and model.config.codes_per_frame == 64
    assert model.config.codes <= 512 and count < 5e6


def test_each_part_of_the_loss_trains_its_own_parameters(params):
    names = ("reconstruction", "codebook", "commitment")
    loss, metrics, trained = parts(SMALL, params, *names)
    expected = metrics["reconstruction"] + metrics["codebook"] + 0.25 * metrics["commitment"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert trained == {
        "reconstruction": {"encoder", "decoder"},
        "codebook": {"codebook"},
        "commitment": {"encoder"},
    }
    assert all(value.shape == () and value.dtype == jnp.float32 for value in metrics.values())
    assert metrics["denominator"] == len(BATCH["images"])
    assert 0 < metrics["code_usage"] <= 1 <= metrics["code_perplexity"] <= SMALL.codes


def test_the_two_players_train_themselves_alone(adversarial_params):
    loss, metrics, trained = parts(ADVERSARIAL, adversarial_params, "generator", "discriminator")
    assert trained == {"generator": {"encoder", "decoder"}, "discriminator": {"discriminator"}}
    expected = metrics["reconstruction"] + metrics["codebook"] + 0.25 * metrics["commitment"]
    expected += 0.5 * metrics["generator"] + metrics["discriminator"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_discriminator_waits_for_its_start(adversarial_params):
    model = VQGAN(dataclasses.replace(ADVERSARIAL, adversarial_start=10, refresh_every=5))
    loss, refresh, params = jax.jit(model.loss), jax.jit(model.refresh), adversarial_params
    for refreshes in range(4):
        total, metrics = loss(params, BATCH, None)
        alone = metrics["reconstruction"] + metrics["codebook"] + 0.25 * metrics["commitment"]
        players = 0.5 * metrics["generator"] + metrics["discriminator"]
        np.testing.assert_allclose(total - alone, players if refreshes >= 2 else 0.0, atol=1e-5)
        assert abs(players) > 1e-3
        params = refresh(params, BATCH, jax.random.key(refreshes))


def test_loss_metrics_describe_encode_and_decode(params):
    model = VQGAN(SMALL)
    codes_BP = model.encode(params, BATCH["images"])
    _, metrics = jax.jit(model.loss)(params, BATCH, None)
    assert metrics["code_usage"] == len(np.unique(codes_BP)) / SMALL.codes
    rebuilt = model.decode(params, codes_BP)
    x, y = BATCH["images"] / np.float32(127.5) - 1, rebuilt / np.float32(127.5) - 1
    np.testing.assert_allclose(metrics["psnr"], psnr(x, y).mean(), atol=0.05)  # rounding to uint8


def test_psnr_of_a_known_error():
    x = jnp.zeros((1, 4, 4, 3))
    np.testing.assert_allclose(psnr(x, x + 0.2), 20.0, rtol=1e-4)  # 0.1 of the range [0, 1]
    np.testing.assert_allclose(psnr(x, x), 100.0)


def test_refresh_changes_dead_codes_and_nothing_else(params):
    model = VQGAN(SMALL)
    used = np.unique(model.encode(params, BATCH["images"]))
    fresh = jax.jit(model.refresh)(params, BATCH, jax.random.key(0))
    changed = (fresh["codebook"]["embedding"] != params["codebook"]["embedding"]).any(-1)
    np.testing.assert_array_equal(np.flatnonzero(~changed), used)
    for part in ("encoder", "decoder"):
        jax.tree.map(np.testing.assert_array_equal, fresh[part], params[part])
    assert len(np.unique(model.encode(fresh, BATCH["images"]))) > len(used)


def test_a_shortcut_is_a_linear_map_of_patches(params):
    """With the rest of the network at 0, a patch is rebuilt by two matrices, whatever is around it."""
    model = VQGAN(dataclasses.replace(SMALL, shortcut=True))
    shapes = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    into, back = jax.random.normal(jax.random.key(0), (48, 4)), jax.random.normal(jax.random.key(1), (4, 48))
    zeros["encoder"]["shortcut"]["kernel"], zeros["decoder"]["shortcut"]["kernel"] = into, back
    x_BHWC = model._pixels(BATCH["images"])
    z_BPC = model._latents(zeros, x_BHWC)
    patches_BPX = np.asarray(x_BHWC).reshape(8, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(8, 16, 48)
    np.testing.assert_allclose(z_BPC, patches_BPX @ into, rtol=1e-4, atol=1e-4)
    y_BHWC = np.asarray(model._decode(zeros, z_BPC))
    rebuilt_BPX = y_BHWC.reshape(8, 4, 4, 4, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(8, 16, 48)
    np.testing.assert_allclose(rebuilt_BPX, patches_BPX @ into @ back, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_code_means_the_same_whatever_its_company(params, cosine):
    model = VQGAN(dataclasses.replace(SMALL, cosine=cosine))
    params = jax.jit(model.refresh)(params, BATCH, jax.random.key(0))
    codes_BP = model.encode(params, BATCH["images"])
    np.testing.assert_array_equal(codes_BP, model.encode(params, BATCH["images"]))
    np.testing.assert_array_equal(codes_BP[2:4], model.encode(params, BATCH["images"][2:4]))
    images = model.decode(params, codes_BP)
    assert images.dtype == jnp.uint8 and images.shape == BATCH["images"].shape
    np.testing.assert_array_equal(images, model.decode(params, codes_BP))
    assert int(codes_BP.min()) >= 0 and int(codes_BP.max()) < SMALL.codes


def test_codes_are_in_rows_from_the_top_left(params):
    """A change in the top right corner of the picture changes codes of the first row, at its end."""
    config = dataclasses.replace(SMALL, resolution=64)
    model = VQGAN(config)
    params = jax.jit(model.refresh)(params, {"images": smooth_images(8, 64)}, jax.random.key(0))
    image = np.full((1, 64, 64, 3), 128, np.uint8)
    changed = image.copy()
    changed[:, :4, -4:] = (255, 0, 0)
    z, changed_z = (model._latents(params, model._pixels(x)).reshape(16, 16, -1) for x in (image, changed))
    apart = np.abs(z - changed_z).max(-1)
    row, column = np.unravel_index(apart.argmax(), apart.shape)
    assert row < 4 and column >= 12


def test_twenty_steps_lower_the_loss(params):
    model, optimizer = VQGAN(SMALL), optax.adam(5e-3)

    @jax.jit
    def step(params, state, i):
        (loss, metrics), grads = jax.value_and_grad(model.loss, has_aux=True)(params, BATCH, None)
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(params, updates)
        fresh = model.refresh(params, BATCH, jax.random.fold_in(jax.random.key(1), i))
        params = jax.tree.map(lambda new, old: jnp.where(i % 5 == 4, new, old), fresh, params)
        return params, state, metrics["reconstruction"], metrics["psnr"]

    state, curve = optimizer.init(params), []
    for i in range(20):
        params, state, *numbers = step(params, state, i)
        curve.append([float(number) for number in numbers])
    (first_loss, first_psnr), (last_loss, last_psnr) = curve[0], curve[-1]
    assert last_loss < 0.5 * first_loss and last_psnr > first_psnr + 5


def test_bfloat16_computes_in_it_and_keeps_float32_outside(params):
    loss, metrics = jax.jit(VQGAN(dataclasses.replace(SMALL, dtype="bfloat16")).loss)(params, BATCH, None)
    exact, _ = jax.jit(VQGAN(SMALL).loss)(params, BATCH, None)
    assert loss.dtype == jnp.float32 and loss != exact
    np.testing.assert_allclose(loss, exact, rtol=0.05)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(resolution=18), "resolution: 18 "),
        (dict(groups=3), "groups: 3 "),
        (dict(dtype="float16"), "dtype: 'float16' "),
        (dict(adversarial_weight=1.0, adversarial_start=5, refresh_every=0), "refresh_every: 0 "),
    ],
)
def test_an_impossible_shape_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **change)


def test_pictures_of_another_size_are_refused(params):
    with pytest.raises(UserError, match="images: .*32.*16"):
        VQGAN(SMALL).encode(params, smooth_images(1, 32))
