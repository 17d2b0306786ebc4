"""Meshes: sizes that fit, sizes that do not, and what the context says."""

import jax
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
