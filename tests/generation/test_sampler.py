import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.generation.sampler import Sampling, choose, guide, keep_top_k, keep_top_p

LOGITS_BV = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32) * 3


def reference_top_k(row, k):
    kept = sorted(range(len(row)), key=lambda i: -row[i])[:k]
    return {int(i) for i in kept}


def reference_top_p(row, p):
    probability = np.exp(row - row.max())
    probability /= probability.sum()
    kept, total = set(), 0.0
    for i in np.argsort(-row):
        if total >= p:
            break
        kept.add(int(i))
        total += probability[i]
    return kept


def kept(masked_BV):
    return [set(np.flatnonzero(np.isfinite(row)).tolist()) for row in np.asarray(masked_BV)]


@pytest.mark.parametrize("k", [1, 3, 17, 39, 40, 100])
def test_top_k_keeps_the_k_likeliest(k):
    assert kept(keep_top_k(jnp.asarray(LOGITS_BV), k)) == [reference_top_k(row, k) for row in LOGITS_BV]


def test_top_k_of_0_keeps_all():
    np.testing.assert_array_equal(keep_top_k(jnp.asarray(LOGITS_BV), 0), LOGITS_BV)


@pytest.mark.parametrize("p", [1e-6, 0.3, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p):
    assert kept(keep_top_p(jnp.asarray(LOGITS_BV), p)) == [reference_top_p(row, p) for row in LOGITS_BV]


def test_what_stays_keeps_its_logit():
    masked_BV = np.asarray(keep_top_p(keep_top_k(jnp.asarray(LOGITS_BV), 9), 0.8))
    stays = np.isfinite(masked_BV)
    assert 0 < stays.sum() < 9 * len(LOGITS_BV)
    np.testing.assert_array_equal(masked_BV[stays], LOGITS_BV[stays])


def test_top_p_after_top_k_renormalises():
    # Of .5 .2 .2 .1, the two kept by top-k are .5/.7 and .2/.7: p = .6 needs one of them only.
    logits_BV = jnp.log(jnp.asarray([[0.5, 0.2, 0.19, 0.11]]))
    assert kept(keep_top_p(keep_top_k(logits_BV, 2), 0.6)) == [{0}]
    assert kept(keep_top_p(logits_BV, 0.6)) == [{0, 1}]


def test_guidance_moves_away_from_the_unconditional_logits():
    conditional, unconditional = LOGITS_BV[:2], LOGITS_BV[2:4]
    np.testing.assert_allclose(guide(conditional, unconditional, 0.0), unconditional)
    np.testing.assert_allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-5)
    np.testing.assert_allclose(
        guide(conditional, unconditional, 5.0), 5 * conditional - 4 * unconditional, atol=1e-4
    )


def test_temperature_0_is_the_most_likely_token():
    keys = jax.random.split(jax.random.key(1), 5)
    np.testing.assert_array_equal(choose(LOGITS_BV, keys, Sampling(temperature=0.0)), LOGITS_BV.argmax(-1))


def test_draws_follow_the_tempered_distribution():
    logits_V = jnp.log(jnp.asarray([0.6, 0.3, 0.1]))
    n, temperature = 20_000, 0.5
    keys = jax.random.split(jax.random.key(2), n)
    drawn = np.asarray(choose(jnp.tile(logits_V, (n, 1)), keys, Sampling(temperature=temperature)))
    expected = np.array([0.6, 0.3, 0.1]) ** (1 / temperature)
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / n, expected / expected.sum(), atol=0.015)


def test_a_draw_depends_on_the_rows_key_only():
    keys = jax.random.split(jax.random.key(3), 5)
    together = choose(LOGITS_BV, keys, Sampling(top_k=10))
    alone = [int(choose(LOGITS_BV[i : i + 1], keys[i : i + 1], Sampling(top_k=10))[0]) for i in range(5)]
    assert together.tolist() == alone


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError):
        Sampling(**wrong)
