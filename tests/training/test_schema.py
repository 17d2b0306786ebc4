import dataclasses

import pytest

from lwm.errors import UserError
from lwm.training import schema


@dataclasses.dataclass(frozen=True)
class Inner:
    name: str
    size: int
    rate: float = 0.5
    flags: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    title: str
    parts: dict[str, Inner]
    shares: dict[str, float] = dataclasses.field(default_factory=dict)
    free: dict = dataclasses.field(default_factory=dict)


def test_builds_nested_blocks_in_order():
    block = {
        "title": "t",
        "parts": {"z": {"size": 3, "flags": [True, False]}, "a": {"size": 4, "rate": 2}},
        "shares": {"x": 1},
        "free": {"anything": [1]},
    }
    built = schema.build(Outer, block, path="config")
    assert list(built.parts) == ["z", "a"]
    assert built.parts["z"] == Inner("z", 3, 0.5, (True, False))
    assert built.parts["a"].rate == 2.0 and isinstance(built.parts["a"].rate, float)
    assert isinstance(built.shares["x"], float) and built.free == {"anything": [1]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"titel": "x"}, "config.titel: there is no such field (value 'x'); did you mean 'title'?"),
        ({"nothing_alike": 1}, "choose from title, parts, shares, free"),
        ({"title": 3}, "config.title: expected str, found 3; write a text"),
        (
            {"parts": {"p": {"size": "abc"}}},
            "config.parts.p.size: expected int, found 'abc'; write a whole number",
        ),
        ({"parts": {"p": {"size": True}}}, "config.parts.p.size: expected int, found True"),
        ({"parts": {"p": {"size": 2.0}}}, "config.parts.p.size: expected int, found 2.0"),
        ({"parts": {"p": {}}}, "config.parts.p.size: missing (no value); write a whole number there"),
        ({"parts": {"p": {"size": 1, "flags": [1]}}}, "config.parts.p.flags[0]: expected bool, found 1"),
        ({"parts": {"p": {"size": 1, "flags": True}}}, "config.parts.p.flags: expected a list, found True"),
        ({"parts": {"p": 5}}, "config.parts.p: expected a block, found 5; write a block of fields"),
        ({"parts": [1]}, "config.parts: expected a block, found [1]"),
        ({"shares": {"a": "x"}}, "config.shares.a: expected float, found 'x'; write a number"),
        ({"free": 3}, "config.free: expected a block, found 3"),
    ],
)
def test_names_field_value_and_fix(change, message):
    with pytest.raises(UserError) as error:
        schema.build(Outer, {"title": "t", "parts": {}} | change, path="config")
    assert message in str(error.value) and "\n" not in str(error.value)
