from types import SimpleNamespace

from lwm.compilation.peak import chips_of


def devices(kind, *coords):
    return [SimpleNamespace(device_kind=kind, coords=own) for own in coords]


def test_chips_are_counted_once_each():
    assert chips_of(devices("TPU v5 lite", (0, 0, 0), (1, 0, 0)))[0].name == "v5e"
    assert chips_of(devices("TPU7x", (0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 0)))[1] == 2
    slices = devices("TPU v4", (0, 0, 0), (0, 0, 0))
    slices[1].slice_index = 1
    assert chips_of(slices)[1] == 2


def test_what_is_no_known_chip_has_no_peak():
    assert chips_of(devices("cpu", (0,))) is None
