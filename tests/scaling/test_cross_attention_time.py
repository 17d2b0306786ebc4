"""The model of a cross-attention's time: its bytes, its limits, and that timed rows give the rates back."""

import dataclasses
import math

import jax.numpy as jnp
import pytest

from lwm.ops.xattn_traffic import traffic
from lwm.scaling import published_clusters as published
from lwm.scaling.cross_attention_calibration import Measured, calibrate
from lwm.scaling.cross_attention_time import (
    WAYS,
    Rates,
    Shape,
    crossover,
    end_to_end,
    fastest,
    hidden_from,
    phases,
    seconds,
    sent,
    speed_up,
)

SHAPE = Shape(T=128, S=8192, N=16, K=8, H=64, n=4)
RATES = Rates(flops=40e9, bandwidth=25e6, latency=3e-4, visit=1e-4, start=1e-3, backward=1.2)


@pytest.mark.parametrize("way", WAYS[:3])
@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("itemsize, dtype", [(2, jnp.bfloat16), (4, jnp.float32)])
def test_bytes_are_those_of_the_operations(way, n, itemsize, dtype):
    for T, S in ((128, 4096), (5, 77)):
        shape = Shape(T=T, S=S, N=8, K=2, H=16, n=n, B=2, itemsize=itemsize)
        counted = traffic(way, B=2, T=T, S=S, N=8, K=2, H=16, n=n, dtype=dtype)
        assert sent(way, shape, backward=False) == counted.forward
        assert sent(way, shape, backward=True) == counted.backward


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("backward", [False, True])
def test_a_trip_computes_and_sends_everything_once(way, n, backward):
    shape = dataclasses.replace(SHAPE, T=384, S=24_576, n=n)
    found = phases(way, shape, backward=backward)
    work = 4 * 384 / n * 24_576 * 16 * 64 * (2.5 if backward else 1)
    assert sum(phase.work_back if backward else phase.work for phase in found) == pytest.approx(work)
    assert sum(phase.load for phase in found) == sent(way, shape, backward=backward)


@pytest.mark.parametrize("training", [False, True])
def test_limits(training):
    work = sum(4 * 128 / 4 * 8192 * 16 * 64 * times for times in (1, 2.5)[: 1 + training])
    wire = {
        way: sum(sent(way, SHAPE, backward=back) for back in (False, True)[: 1 + training]) for way in WAYS
    }
    for way in WAYS:
        # A link without limits, then devices without limits: one of both is all.
        fast = seconds(way, SHAPE, Rates(40e9, math.inf), training=training)
        slow = seconds(way, SHAPE, Rates(math.inf, 25e6), training=training)
        assert (fast, slow) == pytest.approx((work / 40e9, wire[way] / 25e6))
        both = seconds(way, SHAPE, Rates(40e9, 25e6, overlap=0.0), training=training)
        hidden = seconds(way, SHAPE, Rates(40e9, 25e6), training=training)
        assert both == pytest.approx(fast + slow)
        assert max(fast, slow) <= hidden * (1 + 1e-9) <= both * (1 + 1e-9)
    # Travelling keys bound by the link, travelling queries by computing: the quotient of the paper.
    shape = dataclasses.replace(SHAPE, S=2**20, K=16, n=64)
    ratio = speed_up(shape, Rates(40e9, 25e6), training=False)
    assert ratio == pytest.approx(hidden_from(Rates(40e9, 25e6)) / (128 / 64), rel=0.05)


def test_every_hop_visit_and_call_takes_its_latency():
    rates = Rates(math.inf, math.inf, latency=1.0, start=100.0, overlap=0.0)
    for n in (2, 3, 5):
        shape = dataclasses.replace(SHAPE, n=n)
        assert seconds("rotate_queries", shape, rates, training=False) == 100 + 2 * (n - 1)
        assert seconds("rotate_keys", shape, rates, training=False) == 100 + (n - 1)
        assert seconds("rotate_keys", shape, rates, training=True) == 100 + 3 * (n - 1)
        visits = seconds("rotate_keys", shape, Rates(math.inf, math.inf, visit=1.0), training=False)
        assert visits == n + 1  # the own shard is seen in halves


@pytest.mark.parametrize("K", [16, 8, 2])
@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_the_faster_way_changes_at_the_crossover(K, overlap):
    rates = Rates(1e15, 25e6, overlap=overlap)
    for ratio in (1 / 4, 1 / 2, 2, 4, 64):
        S = int(128 * ratio * crossover(16, K))
        shape = dataclasses.replace(SHAPE, S=S, K=K)
        wanted = "rotate_queries" if ratio > 1 else "rotate_keys"
        assert fastest(shape, rates, training=False) == wanted, ratio


@pytest.mark.parametrize("overlap", [0.0, 0.3, 1.0])
def test_calibration_gives_back_the_rates_that_made_the_rows(overlap):
    links = {"200": 25e6, "1000": 120e6, "0": 2e9}
    copy = 1e-9 * (overlap > 0)
    rates = {
        link: dataclasses.replace(RATES, bandwidth=speed, copy=copy, overlap=overlap)
        for link, speed in links.items()
    }
    rows = []
    for link, own in rates.items():
        for ratio in (1, 4, 16, 64, 256):
            for way in ("rotate_queries", "rotate_keys", "gather_keys"):
                for training in (False, True):
                    shape = dataclasses.replace(SHAPE, S=128 * ratio)
                    taken = seconds(way, shape, own, training=training)
                    rows.append(Measured(way, shape, training, link, taken))
    found = calibrate(rows)
    assert found.within(1e-6) == 1
    for link, own in rates.items():
        assert dataclasses.astuple(found.rates[link]) == pytest.approx(dataclasses.astuple(own), rel=1e-3)
    assert found.overlaps[overlap] < 1e-6 < 1e-2 < found.overlaps[1 - overlap]
    assert found.predict(rows[7]) == pytest.approx(rows[7].seconds)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="rows: none"):
        calibrate([])
    with pytest.raises(ValueError, match="seconds: 0.0 of rotate_keys; must be above 0"):
        calibrate([Measured("rotate_keys", SHAPE, False, "200", 0.0)])
    with pytest.raises(ValueError, match="way: 'teleport'; one of rotate_queries"):
        phases("teleport", SHAPE, backward=False)
    with pytest.raises(ValueError, match="N: 16 query heads; must be a multiple of K=5"):
        dataclasses.replace(SHAPE, K=5)
    with pytest.raises(ValueError, match="T: 0; must be at least 1"):
        dataclasses.replace(SHAPE, T=0)
    with pytest.raises(ValueError, match="mfu: 0; a share"):
        published.CLUSTERS["16 A100-80"].rates(0)


def test_published_speed_ups_are_of_the_order_of_the_model():
    """Model, not measurement: 55 and 28 times for 1K and 2K tokens, between which the reported 45.85 lies."""
    cluster = published.CLUSTERS["16 A100-80"]
    found = [
        speed_up(
            published.shape(published.LLAMA_3V, cluster, text=text, repeated=True),
            cluster.rates(0.3),
            training=False,
        )
        for text in (1024, 2048)
    ]
    assert found == pytest.approx([54.9, 27.5], rel=0.01)
    assert found[1] < published.REPORTED_ATTENTION < found[0]
    # So much of a step must be cross-attention for the reported speed-up of a whole one.
    assert end_to_end(0.925, published.REPORTED_ATTENTION) == pytest.approx(
        published.REPORTED_END_TO_END, rel=0.05
    )


def test_calibration_on_the_forward_alone_says_nothing_of_the_backward():
    taken = seconds("rotate_keys", SHAPE, RATES, training=False)
    found = calibrate([Measured("rotate_keys", SHAPE, False, "200", taken)])
    assert found.rates["200"].backward == 1 and found.within(1e-6) == 1
