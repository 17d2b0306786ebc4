"""Documents of text and pictures: what a manifest may say, what is wrong in it, and what is stored."""

import json

import numpy as np
import pytest
from PIL import Image

from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.interleaved_records import page_sizes, pages
from lwm.data.manifest import load_manifest
from lwm.data.tokenizers import ByteTokenizer, load_tokenizer
from lwm.errors import UserError

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}


def image(path, position, **more):
    return {"path": path, "position": position} | more


LINES = [
    {
        "texts": ["Red.", " Blue?"],
        "images": [image("blue.png", 2), image("red.png", 0), image("green.png", 2)],
    },
    {"texts": ["Only text."], "split": "train", "source": "words"},
    {"texts": ["", "Blue:", "yes"], "images": [image("blue.png", 2)], "learned": [True, False, True]},
]


@pytest.fixture
def folder(tmp_path):
    """Returns `folder(*lines)`: a folder with three pictures, one that is none, and a manifest."""

    def make(*lines):
        where = tmp_path / "input"
        where.mkdir()
        for name, colour in COLOURS.items():
            Image.new("RGB", (6, 4), colour).save(where / f"{name}.png")
        (where / "broken.png").write_bytes(b"no picture")
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (where / "pages.jsonl").write_text(text, encoding="utf-8")
        return where

    return make


def prepare(folder, output, **settings):
    settings = {"resolution": 6, "heldout": 0.0} | settings
    return prepare_pages(input=str(folder), output=output, track=lambda items, *_: items, **settings)


def test_documents_are_stored_with_their_pictures_in_order(folder, tmp_path):
    where, data = folder(*LINES), tmp_path / "data"
    done = prepare(where, data)
    assert done == load_manifest(data) and isinstance(load_tokenizer(data), ByteTokenizer)
    assert done["pages"] == {
        "pages": {"train": {"documents": 2, "tokens": 18, "images": 4}},
        "words": {"train": {"documents": 1, "tokens": 10, "images": 0}},
    }
    first, second = pages(data, "pages", "train")
    assert first.name == "pages.jsonl:1" and first.positions.tolist() == [0, 2, 2]
    assert ByteTokenizer().decode(first.tokens) == "Red. Blue?" and first.lengths.tolist() == [4, 6]
    middles = [tuple(picture[3, 3]) for picture in first.images]
    assert middles == [COLOURS[name] for name in ("red", "blue", "green")]
    assert tuple(first.images[0][0, 0]) == (255, 255, 255)  # all of the picture is kept, on white
    assert second.learned.tolist() == [True, False, True] and second.lengths.tolist() == [0, 5, 3]
    assert page_sizes(data, "pages", "train").tolist() == [[10, 3], [8, 1]]
    assert pages(data, "words", "train")[0].images.shape == (0, 6, 6, 3)
    assert prepare(where, data) == done
    with pytest.raises(UserError, match="resolution: .* was made with 6, not 8"):
        prepare(where, data, resolution=8)


def test_groups_are_held_out_as_a_whole(folder, tmp_path):
    lines = [{"texts": [f"{n} {k}"], "group": f"g{n}", "source": f"s{k}"} for n in range(10) for k in "ab"]
    data = tmp_path / "data"
    prepare(folder(*lines), data, heldout=0.3)
    held = [
        [ByteTokenizer().decode(page.tokens)[0] for page in pages(data, f"s{k}", "heldout")] for k in "ab"
    ]
    assert held[0] == held[1] and len(held[0]) == 3


def test_a_group_is_in_the_split_that_one_of_its_lines_names(folder, tmp_path):
    lines = [{"texts": [f"{n}"], "group": f"g{n // 2}"} for n in range(20)]
    for n in range(0, 20, 4):
        lines[n]["split"] = "train"
    lines[18]["split"] = "heldout"
    where = folder(*lines)
    prepare(where, tmp_path / "data", heldout=0.5)
    held = {int(ByteTokenizer().decode(page.tokens)) for page in pages(tmp_path / "data", "pages", "heldout")}
    assert {18, 19} < held and held == {n ^ 1 for n in held}
    assert not held & {n + k for n in range(0, 20, 4) for k in (0, 1)}
    lines[1]["split"] = "heldout"
    (where / "pages.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match="pages.jsonl:2: split: 'heldout', but other lines of group 'g0'"):
        prepare(where, tmp_path / "other")


def test_similarities_below_nothing_stay_where_nobody_asks_for_more(folder, tmp_path):
    line = {"texts": ["x"], "images": [image("red.png", 0, similarity=-0.2)]}
    done = prepare(folder(line), tmp_path / "data")
    assert done["dissimilar"] == 0 and done["pages"]["pages"]["train"]["images"] == 1


def test_unlike_pictures_are_left_out_and_counted(folder, tmp_path):
    images = [
        image("red.png", 0, similarity=0.2),
        image("blue.png", 0, similarity=0.3),
        image("green.png", 1),
    ]
    done = prepare(folder({"texts": ["x"], "images": images}), tmp_path / "data", min_similarity=0.25)
    assert done["dissimilar"] == 1 and done["pages"]["pages"]["train"]["images"] == 2


def test_broken_pictures_are_named_and_their_documents_stay(folder, tmp_path):
    lines = [{"texts": ["x"], "images": [image("red.png", 0), image("broken.png", 1)]}]
    done = prepare(folder(*lines), tmp_path / "data")
    assert [name for name, _ in done["broken"]] == ["pages.jsonl:1: images[1].path"]
    assert done["broken"][0][1].startswith("broken.png cannot be decoded")
    assert done["pages"]["pages"]["train"] == {"documents": 1, "tokens": 1, "images": 1}


WRONG = [
    ("{", "line: is not JSON (Expecting property name"),
    ("[1]", "line: [1] is no object; write {"),
    ({"images": []}, "texts: None is no list of texts; write"),
    ({"texts": [" ", ""]}, "texts: [' ', ''] has no text at all; give some"),
    (
        {"texts": ["x"], "images": [image("none.png", 0)]},
        "images[0].path: 'none.png' does not exist; mend it",
    ),
    *(
        (
            {"texts": ["x"], "images": [image(path, 0)]},
            f"images[0].path: {path!r} lies outside of the folder; put it there",
        )
        for path in ("../red.png", "a/../../red.png", "/red.png")
    ),
    (
        {"texts": ["x"], "images": [image("red.png", 2)]},
        "images[0].position: 2 is outside of the 1 texts; use 0",
    ),
    (
        {"texts": ["x"], "images": [image("red.png", 0, similarity="?")]},
        "images[0].similarity: '?' is no number",
    ),
    *(
        # NaN would pass any filter. No measure is infinite either: it is a mistake of whoever wrote the line.
        (
            {"texts": ["x"], "images": [image("red.png", 0, similarity=float(value))]},
            f"images[0].similarity: {value} is no finite number; mend or remove it",
        )
        for value in ("nan", "inf", "-inf")
    ),
    ({"texts": ["x"], "images": [{"path": "red.png"}]}, "images[0]: {'path': 'red.png'} is no picture; give"),
    ({"texts": ["x"], "learned": [1]}, "learned: [1] is no list of true and false for 1 texts; give one"),
    ({"texts": ["x"], "split": "test"}, "split: 'test' is no split; use train or heldout"),
    ({"texts": ["x"], "source": "A b"}, "source: 'A b' is no name; use small letters"),
    ({"texts": ["x"], "image": []}, "image: is not known; known are texts"),
]


@pytest.mark.parametrize(("line", "message"), WRONG, ids=[message.partition(":")[0] for _, message in WRONG])
def test_a_wrong_line_is_named_with_its_field(folder, tmp_path, line, message):
    with pytest.raises(UserError) as error:
        prepare(folder({"texts": ["fine"]}, "", line), tmp_path / "data")
    assert str(error.value).startswith(f"pages.jsonl:3: {message}") and "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_what_is_wrong_can_be_skipped_and_is_listed(folder, tmp_path):
    lines = [{"texts": ["fine"]}, *(line for line, _ in WRONG)]
    done = prepare(folder(*lines), tmp_path / "data", skip_broken=True)
    names = [name for name, _ in done["broken"]]
    assert len(names) == len(WRONG) and names[4] == "pages.jsonl:6: images[0].path"
    # A line whose picture is missing stays without it.
    assert done["pages"]["pages"]["train"] == {"documents": 2, "tokens": 5, "images": 0}


def test_a_folder_is_made_anew_elsewhere_once_its_files_have_changed(folder, tmp_path):
    where, data = folder(*LINES), tmp_path / "data"
    done = prepare(where, data)
    where = where.rename(tmp_path / "moved")
    assert prepare(where, data) == done
    changes = (where / "red.png", b"another"), (where / "pages.jsonl", b'{"texts": ["x"]}')
    for path, content in changes:
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError, match="input: the files of .*moved are not those that .*data was made"):
            prepare(where, data)
        path.write_bytes(before)
    assert prepare(where, data) == load_manifest(data) == done


def test_manifests_that_make_no_document_are_told(folder, tmp_path):
    where = folder("", "{")
    reason = r"\(1 broken, the first: pages.jsonl:2: line is not JSON"
    with pytest.raises(UserError, match=f"input: the manifests in .* have no document {reason}"):
        prepare(where, tmp_path / "data", skip_broken=True)
    (where / "pages.jsonl").rename(where / "pages\udcff.jsonl")
    with pytest.raises(UserError, match=r"input: 'pages\\udcff.jsonl' is no UTF-8 at character 6"):
        prepare(where, tmp_path / "data", skip_broken=True)
    assert not (tmp_path / "data").exists()


def test_settings_and_folders_that_make_no_sense_are_refused(folder, tmp_path):
    where = folder(*LINES)
    for message, settings in (
        ("heldout: 1.0 is no share", {"heldout": 1.0}),
        ("resolution: 0", {"resolution": 0}),
        ("min_similarity: nan leaves out all or nothing", {"min_similarity": float("nan")}),
    ):
        with pytest.raises(UserError, match=message):
            prepare(where, tmp_path / "data", **settings)
    with pytest.raises(UserError, match="output: .* holds no data.json"):
        prepare(where, where)
    with pytest.raises(UserError, match="input: .* has no .jsonl file"):
        prepare(tmp_path, tmp_path / "data")
    with pytest.raises(UserError, match="does not exist; make it by python -m lwm.prepare --pages"):
        pages(tmp_path, "pages", "train")
    assert np.all(~np.asarray([path.name.endswith(".part") for path in tmp_path.iterdir()]))
