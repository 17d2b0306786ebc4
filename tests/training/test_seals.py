import json

import pytest

from lwm.training.seals import MARK, SEAL, damage, write_seal


@pytest.fixture
def checkpoint(tmp_path):
    """A folder as Orbax completes it, with its seal."""
    for name in ("params/d/0", "params/manifest", "rest/manifest"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 1000)
    (tmp_path / "about").mkdir()
    (tmp_path / "about" / "metadata").write_text(json.dumps({"stage": {}} | MARK))
    write_seal(tmp_path)
    for name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_what_was_saved_is_whole(checkpoint):
    assert damage(checkpoint) is None and damage(checkpoint, ("params",)) is None


@pytest.mark.parametrize(
    "break_it, what",
    [
        (lambda path: path.unlink(), "rest/manifest is missing"),
        (lambda path: path.write_bytes(b""), "rest/manifest has 0 bytes instead of 13000"),
        (lambda path: path.write_bytes(path.read_bytes() + b"."), "has 13001 bytes instead of 13000"),
        (lambda path: flip(path, 8 * 12999), "rest/manifest has changed since it was saved"),
        (lambda path: (path.parent / "more").write_text(""), "rest/more is not of this checkpoint"),
        (lambda path: (path.parent / "loop").symlink_to(path.parent), "rest/loop is not of this checkpoint"),
    ],
)
def test_each_kind_of_damage_is_named(checkpoint, break_it, what):
    break_it(checkpoint / "rest" / "manifest")
    assert what in damage(checkpoint) and damage(checkpoint, ("params", "about")) is None


def test_no_bit_of_a_seal_changes_unseen(checkpoint):
    seal = (checkpoint / SEAL).read_bytes()
    for bit in (8 * byte + byte % 8 for byte in range(len(seal))):
        flip(checkpoint / SEAL, bit)
        assert damage(checkpoint) is not None, f"bit {bit}"
        (checkpoint / SEAL).write_bytes(seal)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"files": []}', b'{"files": {"params": 1}}', b"[" * 10**5])
def test_a_seal_that_is_none(checkpoint, content):
    (checkpoint / SEAL).write_bytes(content)
    assert damage(checkpoint) == "seal.json is broken"


def test_a_seal_that_is_too_large_is_not_read(checkpoint):
    with (checkpoint / SEAL).open("r+b") as file:
        file.truncate(2**40)
    assert damage(checkpoint) == "seal.json is broken"


def test_a_lost_seal_is_noticed_and_one_that_never_was_is_not(checkpoint):
    (checkpoint / SEAL).unlink()
    assert damage(checkpoint) == "seal.json is missing"
    about = checkpoint / "about" / "metadata"
    about.write_text('{"stage": {}}')
    assert damage(checkpoint) is None
    for content in ("{", "[]"):
        about.write_text(content)
        assert damage(checkpoint) == "about/metadata is broken"
    about.unlink()
    assert damage(checkpoint) == "about/metadata is missing"
