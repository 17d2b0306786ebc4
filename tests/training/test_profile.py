import pytest

from lwm.errors import UserError
from lwm.training.experiment import build_experiment
from lwm.training.profile import Window, parse_window


def test_a_window_is_read(config_of):
    experiment = build_experiment(config_of({"a": {"steps": 8}}))
    assert parse_window("", experiment) is None
    assert parse_window("a:2-3", experiment) == Window("a", 2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "'a' is no range of steps; write STAGE:FIRST-LAST"),
        ("a:0-1", "'a:0-1' is no range in a; choose from 1-8"),
        ("a:3-2", "choose from 1-8"),
        ("a:3-9", "choose from 1-8"),
        ("b:1-2", "'b' is no stage; choose from a"),
    ],
)
def test_a_window_that_is_wrong(text, message, config_of):
    with pytest.raises(UserError, match=message):
        parse_window(text, build_experiment(config_of({"a": {"steps": 8}})))


@pytest.mark.slow
def test_the_steps_are_traced(tmp_path, run, config_of):
    """Also where training is cut short inside of the window."""
    window = Window("a", 2, 4)
    assert run(config_of({"a": {"steps": 5}}), tmp_path / "whole", profile=window) is None
    assert run(config_of({"a": {"steps": 5}}), tmp_path / "cut", ("a", 2), profile=window) == "cut"
    for name in ("whole", "cut"):
        assert list((tmp_path / name / "profile/a_2-4").rglob("*.xplane.pb"))
