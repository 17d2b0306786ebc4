"""The documents of the DreamLLM miniature: one item in one split, and what is drawn says what is judged."""

import io
import json

import pytest
from PIL import Image

from experiments.dreamllm_data import lay_out
from lwm.data.task_records import Record

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
        one = stamps[int(line["images"][0]["path"][-8:-4])]
        colour = list(COLOURS)[stamps.index(one) % 3]
        assert f"{colour} {one.label}: {one.target}" in line["texts"][0]
    kinds = [line for line in documents["questions"] if line["texts"][0].startswith("Which colour")]
    assert len(kinds) == 24 and all(line["texts"][1] in COLOURS for line in kinds)
    assert all(line["learned"] == [False, True] for line in documents["questions"])
    assert all(line["learned"] == [False] for line in documents["drawings"])


def test_an_album_has_stamps_of_one_kind_each_behind_its_caption(laid_out):
    documents, stamps = laid_out
    for line in documents["albums"]:
        own = [stamps[int(image["path"][-8:-4])] for image in line["images"]]
        assert line["texts"][0].startswith(own[0].label) and len({one.label for one in own}) == 1
        assert all(one.target in text for one, text in zip(own, line["texts"], strict=True))
        assert [image["position"] for image in line["images"]] == list(range(1, len(own) + 1))
