"""Pages on disk, from the workdir of a DreamLLM and a prompt."""

import json

import numpy as np
import pytest
from PIL import Image

from lwm.data.task_sources.stamps import on_square
from lwm.errors import UserError
from lwm.generation.sampler import Sampling
from lwm.serving import page_files, pages
from lwm.serving.requests import Request


@pytest.fixture(scope="module")
def run(dream_run):
    return pages.load(dream_run)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return str(path)


def request(prompt="", *, guidance=2.0, **changes):
    empty = {"image": "", "video": "", "frames": 0, "chat": False, "vqgan": "", "output": ""}
    how = {"prompt": prompt, "new_tokens": 40, "sampling": Sampling(guidance=guidance), "seed": 0}
    return Request(**empty | how | changes)


def write(run, prompt="", *, pictures=2, steps=3, method="dpm", **changes):
    return pages.write(run, request(prompt, **changes), pictures=pictures, steps=steps, method=method)


@pytest.mark.slow
def test_a_page_is_a_folder_that_shows_itself(run, photo, tmp_path, capsys):
    page = write(run, "A <vision> & b", image=photo, output=str(tmp_path / "page"))
    assert page[0] == "A " and page[2] == " & b"
    np.testing.assert_array_equal(page[1], on_square(photo, 8))
    shown = [part for part in page if not isinstance(part, str)]
    names = [f"picture_{number}.png" for number in (1, 2, 3)]
    assert {path.name for path in (tmp_path / "page").iterdir()} == {*names, "index.html", "page.md"}
    for name, picture in zip(names, shown, strict=True):
        file = np.asarray(Image.open(tmp_path / "page" / name))
        assert file.shape == (256, 256, 3)
        np.testing.assert_array_equal(file[::32, ::32], picture)
    said = capsys.readouterr()
    assert said.out == (tmp_path / "page/page.md").read_text() + "\n"
    assert said.out.startswith("A \n\n![](picture_1.png)\n\n & b")
    assert "picture 2: 3 steps · " in said.err and "picture 3: 3 steps · " in said.err
    assert said.err.endswith(f"page: {tmp_path}/page/index.html\n")
    html = (tmp_path / "page/index.html").read_text()
    assert [html.count(name) for name in names] == [1, 1, 1] and "<title>A  &amp; b</title>" in html
    assert '<p class="given"> &amp; b</p>' in html and html.count('<figure class="made">') == 2
    assert "seed 0 · guidance 2 · 3 steps of dpm" in html


@pytest.mark.slow
def test_a_picture_in_the_prompt_changes_what_is_written(run, photo):
    with_it, without = (page_files.as_markdown(write(run, "A ", image=image)) for image in (photo, ""))
    assert with_it.removeprefix("\n\n![](picture_1.png)\n\n") != without


def test_markdown_numbers_pictures_as_their_files_are():
    parts = ["a", np.zeros((8, 8, 3), np.uint8), "b", np.ones((8, 8, 3), np.uint8)]
    files = page_files.files_of(parts, given=1, title="<a>", about="")
    whole = files["page.md"].decode()
    assert whole == page_files.as_markdown(parts[:2]) + page_files.as_markdown(parts[2:], before=1)
    assert list(files) == ["picture_1.png", "picture_2.png", "page.md", "index.html"]
    assert "<title>&lt;a&gt;</title>" in files["index.html"].decode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": " "}, "prompt: ' ' has no text, and there is no image; give"),
        ({"prompt": "a", "image": "gone.png"}, "image: gone.png is not a file; give another"),
        ({"prompt": "a", "image": "broken.png"}, "image: broken.png cannot be decoded.*; give another"),
        ({"prompt": "<vision><vision>", "image": "PHOTO"}, "prompt: <vision> stands 2 times"),
        ({"prompt": "a", "steps": 0}, "steps: 0; a whole number from 1 to"),
        ({"prompt": "a", "method": "euler"}, "method: 'euler'; one of"),
        ({"prompt": "a", "guidance": float("inf")}, "guidance: inf; 0"),
        ({"prompt": "a" * 95}, "prompt: 96 tokens leave 0 of the context's 96"),
        ({"prompt": "a", "output": "broken.png"}, "output: broken.png is a file; give a folder"),
        ({"prompt": "a", "output": "."}, r"output: \. exists already and holds files; give another folder"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_made(
    run, photo, tmp_path, monkeypatch, capsys, changes, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    changes = {name: photo if value == "PHOTO" else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message) as error:
        write(run, **changes)
    assert "\n" not in str(error.value) and capsys.readouterr().out == ""


def test_pages_without_a_folder_of_their_own_stand_side_by_side(tmp_path):
    for name in ("page", "page_2", "page_3"):
        assert page_files.free_folder(tmp_path) == str(tmp_path / name)
        (tmp_path / name).mkdir()


def test_pictures_of_a_prompt_are_laid_out_as_the_stage_learned_them(run):
    def shows(*, leads, **block):
        return pages.shows_dreamed(run._replace(block=run.block | block), leads=leads)

    mixed = {"mixture": {"stamps": 0.5, "albums": 0.5}}
    for leads in (False, True):
        assert shows(leads=leads) and shows(leads=leads, **mixed, forms={"stamps": "creation"})
        assert not shows(leads=leads, **mixed, forms={"stamps": "pairs", "albums": "comprehension"})
        assert not shows(leads=leads, mixture={"stamps": 1.0, "albums": 0.0}, forms={"stamps": "pairs"})
        for form in ("pairs", "comprehension"):
            assert shows(leads=leads, **mixed, forms={"stamps": form}) is not leads


def test_workdirs_that_write_no_pages_are_told(runs, dream_run, tmp_path):
    with pytest.raises(UserError, match="workdir: .*text holds another model, lwm"):
        pages.load(runs / "text")
    (tmp_path / "data.json").write_text(json.dumps({"tokenizer": "sentencepiece"}))
    (tmp_path / "tokenizer.model").write_bytes((runs / "imported/tokenizer.model").read_bytes())
    with pytest.raises(
        UserError, match="data: .* a tokenizer of 300 ids, the model marks pictures from id 259"
    ):
        pages.load(dream_run, data=str(tmp_path))
