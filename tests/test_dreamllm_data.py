"""The documents of the DreamLLM miniature: what is drawn says what is judged; a manual."""

import io
import json

import pytest
from PIL import Image

from experiments import dreamllm_manual
from experiments.dreamllm_data import lay_out
from lwm.data.interleaved import read_pages
from lwm.data.task_records import Record
from lwm.data.task_sources.reading import stop
from lwm.errors import UserError

COLOURS = {"red": (200, 20, 20), "green": (0, 160, 0), "blue": (30, 60, 220)}


def stamp(number: int, caption: str, kind: str, colour: str) -> Record:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(content, "PNG")
    return Record(f"stamp{number}", f"stamp{number}", image=content.getvalue(), target=caption, label=kind)


@pytest.fixture
def laid_out(tmp_path):
    """{source: its documents} of 24 stamps, of which each caption is that of two."""
    stamps = [
        stamp(
            number,
            f"A thing {number // 2}.",
            ("animals", "plants")[number // 2 % 2],
            list(COLOURS)[number % 3],
        )
        for number in range(24)
    ]
    lay_out(stamps, tmp_path, heldout=0.25, seed=0)
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in tmp_path.glob("*.jsonl")
    }, stamps


def test_stamps_of_one_caption_are_in_one_split_of_all_sources(laid_out):
    documents, _ = laid_out
    splits = {}
    for line in (line for own in documents.values() for line in own):
        for image in line["images"]:
            splits.setdefault(int(image["path"][-8:-4]) // 2, set()).add(line["split"])
    assert len(splits) == 12 and all(len(own) == 1 for own in splits.values())
    assert sum(own == {"heldout"} for own in splits.values()) == 3


def test_what_is_drawn_says_colour_and_kind_and_answers_stand_behind_pictures(laid_out):
    documents, stamps = laid_out
    for line in documents["stamps"] + documents["drawings"]:
        number = int(line["images"][0]["path"][-8:-4])
        one, colour = stamps[number], list(COLOURS)[number % 3]
        assert f"{colour} {one.label}: {one.target}" in line["texts"][0]
    colours = [line for line in documents["questions"] if line["texts"][0].startswith("Which colour")]
    assert len(colours) == 24 and all(line["texts"][1] in COLOURS for line in colours)
    assert all(line["learned"] == [False, True] for line in documents["questions"])
    assert all(line["learned"] == [False] for line in documents["drawings"])


def test_an_album_has_stamps_of_one_kind_each_behind_its_caption(laid_out):
    documents, stamps = laid_out
    for line in documents["albums"]:
        own = [stamps[int(image["path"][-8:-4])] for image in line["images"]]
        assert line["texts"][0].startswith(own[0].label) and len({one.label for one in own}) == 1
        assert all(one.target in text for one, text in zip(own, line["texts"], strict=True))
        assert [image["position"] for image in line["images"]] == list(range(1, len(own) + 1))


PAGE = """<?xml version="1.0"?><html><head><title>2.1. Moving</title></head><body>
<div class="navheader"><table><tr><td>2.1. Moving <img src="images/prev.png" alt="Prev" /></td></tr></table>
<hr /></div>
<div class="sect2"><h3>2.1. Moving &amp; more</h3><p>First  <b>this</b>
tool.<br />Then that.</p><div class="mediaobject"><img src="images/../images/a.png" />
<div class="caption"><p>Before</p></div></div><img src="images/b.png" alt="b"></img><p>Last.</p></div>
<div class="navfooter"><img src="images/next.png" /> Next</div></body></html>"""


def test_a_page_of_the_manual_has_its_texts_and_pictures_in_order():
    page = dreamllm_manual.read_page(PAGE)
    assert page.texts == ["2.1. Moving & more\nFirst this tool.\nThen that.\n", "Before\n", "Last.\n"]
    assert page.images == [{"path": "images/a.png", "position": 1}, {"path": "images/b.png", "position": 2}]
    assert page.bars == 2


def test_a_manual_becomes_a_manifest_and_a_missing_picture_is_named(tmp_path):
    place, folder = tmp_path / "en", tmp_path / "pages"
    (place / "images").mkdir(parents=True)
    (place / "moving.html").write_text(PAGE, encoding="utf-8")
    (place / "bar.html").write_text('<div class="navheader">Next <img src="images/next.png" /></div>')
    Image.new("RGB", (4, 4)).save(place / "images/a.png")
    with pytest.raises(UserError, match=r"moving.html: picture 1: images/b.png is not there; fetch anew"):
        dreamllm_manual.lay_out(place, folder)
    Image.new("RGB", (4, 4)).save(place / "images/b.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    (place / "out.html").write_text('<p>Out</p><img src="../secret.png" />')
    with pytest.raises(UserError, match=r"out.html: picture 0: ../secret.png is not there"):
        dreamllm_manual.lay_out(place, folder)
    (place / "out.html").unlink()
    counts = dreamllm_manual.lay_out(place, folder)
    assert counts == {"pages": 1, "pictures": 2, "files": 2, "bars": 3, "empty": 1}
    (page,) = read_pages(str(folder), min_similarity=0.0, broken=stop).pages
    assert (page.source, page.group, len(page.texts)) == ("manual", "moving", 3)
    assert [(image.path.name, image.position) for image in page.images] == [("a.png", 1), ("b.png", 2)]
