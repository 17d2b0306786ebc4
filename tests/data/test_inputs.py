import os

import pytest

from lwm.data.inputs import media_kind, read_parts, scan


@pytest.fixture(scope="module")
def found(broken_folder):
    return scan(str(broken_folder))


def test_each_usable_thing_becomes_one_item(found, lines):
    by_name = {item.name: item for item in found.items}
    assert len(by_name) == len(found.items) == 10 + len(lines) + 4
    assert by_name["texts/3.md"].source == "text"
    assert by_name["lines.jsonl:1"].fields == ("[caption],vision", "[vision],caption")
    assert by_name["lines.jsonl:1"].media == "videos/long.mp4"
    assert by_name["lines.jsonl:4"].source == "chat"
    assert by_name["lines.jsonl:5"].split == "heldout"
    assert by_name["lines.jsonl:7"].source == "sums"
    assert by_name["videos/silent.avi"].fields == ("vision",)
    assert "images/red.png" not in by_name, "a picture with a line is not a document of its own"


def test_parts_are_read_when_asked_for(found, broken_folder):
    by_name = {item.name: item for item in found.items}
    assert read_parts(str(broken_folder), by_name["lines.jsonl:2"]) == {"caption": "Red."}
    assert read_parts(str(broken_folder), by_name["lines.jsonl:7"]) == {
        "prompt": "Two and two?",
        "reply": "Four.",
    }
    chat = read_parts(str(broken_folder), by_name["lines.jsonl:4"])
    assert chat["question"] == "You are a helpful assistant. USER: Which colour?\n"
    assert read_parts(str(broken_folder), by_name["videos/silent.avi"]) == {}
    assert read_parts(str(broken_folder), by_name["texts/0.txt"])["text"].startswith("# Document 0\n")


def test_each_broken_thing_is_named_with_its_reason(found, lines, broken_lines):
    reasons = dict(found.broken)
    for number, (_, reason) in enumerate(broken_lines.items(), start=len(lines) + 1):
        assert reason in reasons[f"lines.jsonl:{number}"]
    assert reasons["texts/empty.md"] == "is empty"
    assert reasons["texts/latin.txt"] == "is not UTF-8 text (byte 3)"
    assert len(reasons) == len(found.broken) == len(broken_lines) + 2, "pictures are looked into later"


def test_the_fingerprint_follows_names_and_sizes(folder, tmp_path):
    def fingerprint():
        return scan(str(tmp_path)).fingerprint

    (tmp_path / "a.txt").write_text("one")
    first = fingerprint()
    assert fingerprint() == first
    (tmp_path / "a.txt").write_text("three")
    assert fingerprint() != first
    (tmp_path / "ignored.xyz").write_text("one")
    (tmp_path / "a.txt").write_text("two")
    assert fingerprint() == first


def test_links_are_followed_once(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("one")
    os.symlink(tmp_path / "real", tmp_path / "real" / "loop")
    os.symlink(tmp_path / "real" / "a.txt", tmp_path / "b.txt")
    assert [item.name for item in scan(str(tmp_path)).items] == ["b.txt", "real/a.txt"]


def test_media_names_are_relative_to_their_jsonl_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "i.png").write_bytes(b"?")
    (tmp_path / "deep" / "l.jsonl").write_text('{"image": "i.png", "caption": "c"}')
    assert [item.media for item in scan(str(tmp_path)).items] == ["deep/i.png"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfHello.")
    (tmp_path / "b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "Hello."}\r\n{"text": "Bye."}\r\n')
    found = scan(str(tmp_path))
    texts = [read_parts(str(tmp_path), item)["text"] for item in found.items]
    assert texts == ["Hello.", "Hello.", "Bye."] and not found.broken


def test_a_name_that_is_no_utf8_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("To be.")
    (tmp_path / os.fsdecode(b"b\xff.txt")).write_text("Or not.")
    found = scan(str(tmp_path))
    assert [item.name for item in found.items] == ["a.txt"]
    assert found.broken == [("b\\udcff.txt", "has a name that is no UTF-8; rename it")]


def test_kinds_of_media():
    assert [media_kind(name) for name in ("a/b.PNG", "c.mkv")] == ["image", "video"]
