"""Meshes: sizes that fit, sizes that do not, and what the context says."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from lwm.errors import UserError
from lwm.parallel.mesh import AXES, axis_size, make_mesh


def test_axes_are_auto_and_in_order():
    mesh = make_mesh(data=2, tensor=2, seq=2)
    assert mesh.axis_names == AXES
    assert dict(mesh.shape) == {"data": 2, "fsdp": 1, "tensor": 2, "seq": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize("axis", AXES)
def test_one_axis_takes_the_rest(axis):
    other = "seq" if axis != "seq" else "data"
    assert make_mesh(**{axis: -1, other: 2}).shape[axis] == 4


def test_devices_can_be_chosen():
    chosen = jax.devices()[2:4]
    assert list(make_mesh(seq=2, devices=chosen).devices.flat) == chosen


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"data": 3}, ("mesh.data: 3", "8 devices", "--cpu_devices=3")),
        ({"data": 2, "seq": 16}, ("mesh.seq: 16", "8 devices")),
        ({"fsdp": -1, "tensor": 3}, ("mesh.tensor: 3", "divides 8")),
        ({"data": -1, "seq": -1}, ("mesh.seq: -1", "mesh.data")),
        ({"tensor": 0}, ("mesh.tensor: 0", ">= 1")),
        ({"tensor": -2}, ("mesh.tensor: -2", ">= 1")),
        ({"seq": 2.0}, ("mesh.seq: 2.0", "whole number")),
        ({"seq": True}, ("mesh.seq: True", "whole number")),
    ],
)
def test_a_size_that_does_not_fit_is_one_line_with_field_and_fix(sizes, words):
    with pytest.raises(UserError) as error:
        make_mesh(**sizes)
    line = str(error.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


def test_axis_size_reads_the_mesh_in_context():
    assert axis_size("seq") == 1
    with jax.set_mesh(make_mesh(seq=4, data=2)):
        assert (axis_size("seq"), axis_size("data"), axis_size("tensor"), axis_size("expert")) == (4, 2, 1, 1)
        assert jax.jit(lambda: axis_size("seq"))() == 4
    assert axis_size("seq") == 1


@dataclasses.dataclass(frozen=True)
class Chip:
    """Of slices of 4 x 2 chips, four to a host."""

    slice_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"

    @property
    def process_index(self):
        return 2 * self.slice_index + self.coords[0] // 2


@dataclasses.dataclass(frozen=True)
class Core:
    """Of a CPU; where hosts are machines of their own, JAX counts them as slices."""

    slice_index: int
    id: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def chips(slices):
    """In an order that tells nothing."""
    places = itertools.product(range(2), range(4), range(slices))
    return [Chip(index, (x, y, 0)) for y, x, index in places]


@pytest.mark.parametrize(
    "slices, sizes, over",
    [
        (2, {"data": 2, "seq": 8}, {"data": 2}),
        (2, {"data": 4, "tensor": 2, "seq": 2}, {"data": 2}),
        (2, {"fsdp": 4, "seq": 4}, {"fsdp": 2}),
        (4, {"data": 2, "fsdp": 4, "seq": 4}, {"data": 2, "fsdp": 2}),
        (4, {"data": -1, "tensor": 2, "seq": 4}, {"data": 4}),
        (3, {"data": 6, "fsdp": 2, "seq": 2}, {"data": 3}),
    ],
)
def test_data_lies_over_slices_and_a_ring_inside_of_one(slices, sizes, over):
    devices = chips(slices)
    mesh = make_mesh(**sizes, devices=devices)
    assert set(mesh.devices.flat) == set(devices)
    index = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    # Each of so many pieces of an axis is of one slice.
    for axis, name in enumerate(AXES):
        pieces = np.split(index, over.get(name, 1), axis)
        assert all((piece == piece.take([0], axis)).all() for piece in pieces), name
    assert len(np.unique(index[:, :, 0, 0])) == slices
    ring = mesh.devices.reshape(-1, mesh.shape["seq"])[0]
    steps = [np.abs(np.subtract(a.coords, b.coords)).sum() for a, b in itertools.pairwise(ring)]
    assert set(steps) == {1}


@pytest.mark.parametrize("sizes", [{"seq": 16}, {"tensor": 16}, {"fsdp": 1, "tensor": 2, "seq": -1}])
def test_a_ring_over_slices_is_refused(sizes):
    with pytest.raises(UserError, match="^mesh.data: 1, but .* 2 slices, .* multiple of 2$"):
        make_mesh(**sizes, devices=chips(2))


def test_hosts_of_cpus_are_filled_one_after_another_and_a_ring_may_cross_them():
    hosts = [[Core(host, index) for index in range(4)] for host in (0, 1)]
    devices = sum(hosts, [])
    assert make_mesh(data=2, seq=4, devices=devices).devices.reshape(2, 4).tolist() == hosts
    assert set(make_mesh(seq=8, devices=devices).devices.flat) == set(devices)
