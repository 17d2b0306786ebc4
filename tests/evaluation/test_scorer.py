import dataclasses

import numpy as np
import pytest

from lwm.evaluation.scorer import Scorer
from lwm.evaluation.windows import Scored, pack
from lwm.models.transformer import LWM
from lwm.parallel.sharding import shardings


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    sequences = []
    for length in (30, 17, 8, 33, 20):
        tokens = random.integers(3, 60, length).astype(np.int32)
        sequences.append(Scored(tokens, random.random(length) < 0.5, np.arange(length) > 0))
    (batch,) = pack(sequences, length=64, batch_size=2)
    return batch


@pytest.mark.parametrize("stripe", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_scores_on_a_ring_are_those_of_one_device(debug_model, batch, mesh_of, stripe):
    import jax

    model, params = debug_model
    mesh = mesh_of(data=2, seq=4)
    placed = jax.device_put(params, shardings(LWM.PARTITION_RULES, params, mesh))
    counted = batch["weights"] > 0
    on_ring = LWM(dataclasses.replace(model.config, stripe=stripe))
    alone, ring = Scorer(model, params), Scorer(on_ring, placed, mesh)
    np.testing.assert_allclose(ring.nll(batch)[counted], alone.nll(batch)[counted], atol=1e-4)
    text = counted & ~batch["targets_are_vision"]
    np.testing.assert_array_equal(ring.greedy(batch)[1][text], alone.greedy(batch)[1][text])


def test_segments_of_a_row_score_as_alone(debug_model, batch):
    model, params = debug_model
    scorer = Scorer(model, params)
    together = scorer.nll(batch)
    here = batch["segments"][0] == 2
    second = {name: np.where(here, array, 0) for name, array in batch.items()}
    start, T = int(np.argmax(here)), int(here.sum())
    second = {name: np.roll(array, -start, axis=1) for name, array in second.items()}
    np.testing.assert_allclose(scorer.nll(second)[0, :T], together[0, here], atol=1e-4)


def test_both_ways_to_score_text_agree(debug_model, batch):
    scorer = Scorer(*debug_model)
    text = (batch["weights"] > 0) & ~batch["targets_are_vision"]
    nll_BT, hit_BT = scorer.greedy(batch)
    np.testing.assert_allclose(nll_BT[text], scorer.nll(batch)[text], atol=1e-4)
    assert hit_BT.dtype == bool
