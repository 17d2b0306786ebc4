import jax
import numpy as np
import pytest

from lwm.parallel.sharding import batch_shardings
from lwm.training.feed import DEPTH, Feed, to_devices
from lwm.training.inputs import HostRows, host_rows


class Counter:
    def __init__(self, end):
        self.count, self.end = 0, end

    def get_state(self):
        return {"count": self.count}

    def __next__(self):
        if self.count == self.end:
            raise OSError("the file is gone")
        self.count += 1
        return {"x": np.full((8, 4), self.count, np.float32)}


SHAPES = {"x": jax.ShapeDtypeStruct((8, 4), np.float32)}


def test_batches_in_order_with_the_position_after_each(mesh_of):
    layout = batch_shardings(SHAPES, mesh_of(data=4, seq=2))
    with Feed(Counter(99), SHAPES, layout) as feed:
        for count in range(1, 6):
            batch, position = next(feed)
            assert position == {"count": count} and batch["x"].sharding == layout["x"]
            np.testing.assert_array_equal(batch["x"], count)


def test_reads_ahead_but_not_further_than_asked():
    source = Counter(99)
    with Feed(source, SHAPES, None) as feed:
        next(feed)
    assert 1 <= source.count <= 1 + DEPTH


def test_an_error_comes_in_its_turn():
    with Feed(Counter(2), SHAPES, None) as feed:
        assert [next(feed).position["count"] for _ in range(2)] == [1, 2]
        with pytest.raises(OSError, match="gone"):
            next(feed)


def test_rows_become_global_arrays(mesh_of):
    layout = batch_shardings(SHAPES, mesh_of(data=2, fsdp=2, seq=2))
    host = np.arange(32, dtype=np.float32).reshape(8, 4)
    there = to_devices({"x": host}, SHAPES, layout)["x"]
    np.testing.assert_array_equal(there, host)
    assert there.addressable_shards[0].data.shape == (2, 2)


def test_one_host_holds_all_rows(mesh_of):
    for axes in ({"data": 8}, {"seq": 8}, {"data": 2, "tensor": 2, "seq": 2}):
        assert host_rows(mesh_of(**axes), 8) == HostRows(0, 1)
