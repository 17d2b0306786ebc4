"""Nearest codes, straight-through gradients, and the revival of dead codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.models.codebook import counts, nearest, quantize, revive, unit, usage_and_perplexity

B, P, V, C = 3, 5, 11, 4
compiled_revive = jax.jit(revive, static_argnames="noise")


@pytest.fixture
def z_BPC():
    return jax.random.normal(jax.random.key(0), (B, P, C))


@pytest.fixture
def codebook_VC():
    return jax.random.normal(jax.random.key(1), (V, C))


def test_nearest_is_the_nearest(z_BPC, codebook_VC):
    codes_BP, distances_BP = nearest(z_BPC, codebook_VC)
    all_BPV = ((np.asarray(z_BPC)[:, :, None] - np.asarray(codebook_VC)) ** 2).sum(-1)
    np.testing.assert_array_equal(codes_BP, all_BPV.argmin(-1))
    np.testing.assert_allclose(distances_BP, all_BPV.min(-1), atol=1e-5)
    assert codes_BP.dtype == jnp.int32


def test_quantized_values_are_codes_and_losses_are_distances(z_BPC, codebook_VC):
    quantized = quantize(z_BPC, codebook_VC)
    _, distances_BP = nearest(z_BPC, codebook_VC)
    np.testing.assert_allclose(quantized.q_BPC, codebook_VC[quantized.codes_BP], atol=1e-6)
    np.testing.assert_allclose(quantized.codebook_loss, distances_BP.mean() / C, rtol=1e-5)
    np.testing.assert_allclose(quantized.commitment_loss, quantized.codebook_loss, rtol=1e-6)


def test_gradients_pass_straight_through_to_the_latents_alone(z_BPC, codebook_VC):
    weight_BPC = jax.random.normal(jax.random.key(2), z_BPC.shape)
    to_z, to_codes = jax.grad(lambda z, e: jnp.vdot(weight_BPC, quantize(z, e).q_BPC), argnums=(0, 1))(
        z_BPC, codebook_VC
    )
    np.testing.assert_allclose(to_z, weight_BPC, rtol=1e-6)
    np.testing.assert_array_equal(to_codes, 0)


def test_each_loss_moves_its_own_side(z_BPC, codebook_VC):
    quantized = quantize(z_BPC, codebook_VC)
    used_V = counts(quantized.codes_BP, V) > 0
    z_grad, e_grad = jax.grad(lambda z, e: quantize(z, e).codebook_loss, argnums=(0, 1))(z_BPC, codebook_VC)
    np.testing.assert_array_equal(z_grad, 0)
    np.testing.assert_array_equal(jnp.any(e_grad != 0, axis=-1), used_V)
    z_grad, e_grad = jax.grad(lambda z, e: quantize(z, e).commitment_loss, argnums=(0, 1))(z_BPC, codebook_VC)
    np.testing.assert_array_equal(e_grad, 0)
    np.testing.assert_allclose(z_grad, 2 * (z_BPC - quantized.q_BPC) / z_BPC.size, rtol=1e-4, atol=1e-7)


def test_counts_usage_and_perplexity_of_known_codes():
    counts_V = counts(jnp.array([[0, 0, 3], [3, 0, 0]]), 8)
    np.testing.assert_array_equal(counts_V, [4, 0, 0, 2, 0, 0, 0, 0])
    usage, perplexity = usage_and_perplexity(counts_V)
    assert usage == 2 / 8
    np.testing.assert_allclose(perplexity, np.exp(np.log(3 / 2) * 2 / 3 + np.log(3) / 3), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_revival_replaces_exactly_the_dead_codes(z_BPC, codebook_VC, noise):
    codebook_VC = codebook_VC.at[4].set(100.0).at[7].set(-100.0)
    dead_V = np.asarray(counts(nearest(z_BPC, codebook_VC)[0], V) == 0)
    assert 2 <= dead_V.sum() < V
    revived_VC = compiled_revive(codebook_VC, z_BPC, jax.random.key(3), noise=noise)
    np.testing.assert_array_equal((revived_VC != codebook_VC).any(-1), dead_V)
    apart_VN = np.abs(np.asarray(revived_VC)[dead_V][:, None] - np.asarray(z_BPC).reshape(-1, C)).max(-1)
    assert (apart_VN.min(-1) <= 5 * noise).all()
    if not noise:  # drawn without replacement: each revived code is another vector of the batch
        assert len(np.unique(apart_VN.argmin(-1))) == dead_V.sum()


def test_revival_depends_on_its_key_alone(z_BPC):
    codebook_VC = jnp.full((V, C), 100.0)
    one, same, other = (compiled_revive(codebook_VC, z_BPC, jax.random.key(k), noise=0.1) for k in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_revival_goes_where_the_codebook_is_worst():
    near, far = jnp.zeros((1, 500, C)), jnp.full((1, 4, C), 9.0)
    codebook_VC = jnp.full((3, C), 1e3).at[0].set(1e-3)
    z_BPC = jnp.concatenate([near, far], axis=1)
    revived_VC = compiled_revive(codebook_VC, z_BPC, jax.random.key(0), noise=0.0)
    np.testing.assert_array_equal(revived_VC[1:], 9.0)


def test_more_dead_codes_than_vectors():
    z_BPC = jax.random.normal(jax.random.key(0), (1, 3, C))
    revived_VC = compiled_revive(jnp.full((10, C), 50.0), z_BPC, jax.random.key(1), noise=0.01)
    # One code of ten is the nearest to all (a tie goes to the first); nine are dead, three vectors to be had.
    np.testing.assert_array_equal(revived_VC[0], 50.0)
    assert (np.abs(np.asarray(revived_VC[1:])) < 10).all()
    assert len(np.unique(np.asarray(revived_VC[1:]), axis=0)) == 9


def test_unit_vectors_have_length_one_and_finite_gradients_at_zero(z_BPC):
    np.testing.assert_allclose(jnp.linalg.norm(unit(z_BPC), axis=-1), 1, rtol=1e-5)
    assert np.isfinite(jax.grad(lambda z: unit(z).sum())(jnp.zeros(C))).all()
