"""The page of a run: everything that is there is on it, the rest is said to be missing."""

import base64
import io
import json
import re

import pytest
from PIL import Image

from lwm.errors import UserError
from lwm.evaluation import charts
from lwm.evaluation.page import build, curves, judged, needle_grid
from lwm.evaluation.workdirs import read_rows, read_run


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def stage(length, theta, steps):
    mesh = {"data": 2, "fsdp": 1, "tensor": 1, "seq": 4}
    return {"context_length": length, "rope_theta": theta, "steps": steps, "mesh": mesh}


@pytest.fixture
def workdir(tmp_path):
    """A run of two stages, the second cut short, with every kind of file."""
    workdir = tmp_path / "lwm"
    (workdir / "samples").mkdir(parents=True)
    stages = {"first": stage(512, 1e4, 2), "second": stage(2048, 1e5, 2)}
    config = {"experiment": "miniature", "seed": 7, "stages": stages}
    (workdir / "config.json").write_text(json.dumps(config))
    rows = [
        {"kind": "train", "stage": "first", "step": 1, "tokens": 1000, "text_nll": 6.5, "seconds": 2.0},
        {"kind": "train", "stage": "first", "step": 2, "tokens": 2000, "text_nll": 5.5, "seconds": 5.0},
        {"kind": "eval", "stage": "first", "step": 2, "tokens": 2000, "text_nll": 5.75, "seconds": 6.0},
        {"kind": "train", "stage": "second", "step": 1, "tokens": 3000, "text_nll": 5.25, "seconds": 90.0},
    ]
    speed = {"tokens_per_second": 321.0, "text_tokens": 900.0, "vision_nll": 1.0, "vision_tokens": 5.0}
    write_rows(workdir / "metrics.jsonl", [row | speed for row in rows])
    number = {"name": "text_bits_per_byte", "value": 2.5, "unit": "bits/byte", "baseline": 3.0, "n": 4096}
    write_rows(workdir / "evaluation.jsonl", [number | {"baseline_name": "gzip -9", "stage": "second"}])
    cell = {"length": 512, "depth": 50, "samples": 5, "found": 0.4, "low": 0.1, "high": 0.7, "gain": 1.25}
    (workdir / "needle.json").write_text(json.dumps({"cells": [cell]}))
    (workdir / "samples" / "text.txt").write_text("Enter <HAMLET> & others")
    Image.new("RGB", (4, 4), "red").save(workdir / "samples" / "frame.png")
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(workdir / "samples" / "clip.gif", save_all=True, append_images=frames[1:])
    return workdir


def test_page_is_one_file_with_every_part(workdir, tmp_path):
    log = tmp_path / "steps.jsonl"
    command = ["python", "-m", "lwm.generate", "--prompt=a red square", "--output=here/frame.png"]
    write_rows(log, [{"step": "Paint", "seconds": 75, "command": command}])
    page = build(workdir, log=log, about=[("commit", "abc123")])
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page and "missing" not in page.split("</style>")[1]
    for text in ("miniature", "512 → 2K", "abc123", "17 % below", "gzip -9", "1 min 15 s", "40 %", "+1.25"):
        assert text in page
    assert "Enter &lt;HAMLET&gt; &amp; others" in page
    assert "frame: “a red square”" in page
    pictures = re.findall(r"data:image/(png|gif);base64,([^\"]+)", page)
    shapes = {kind: Image.open(io.BytesIO(base64.b64decode(data))) for kind, data in pictures}
    assert shapes["gif"].n_frames == 2 and shapes["png"].size == (4, 4)


def test_what_is_not_there_is_said_to_be_missing(workdir):
    for name in ("metrics.jsonl", "evaluation.jsonl", "needle.json"):
        (workdir / name).unlink()
    for path in (workdir / "samples").iterdir():
        path.unlink()
    page = build(workdir)
    assert page.count('class="missing"') == 6
    assert "<svg" not in page and "0 of 2" in page


def test_curves_are_of_what_was_measured_over_enough_tokens(workdir):
    run = read_run(workdir, {})
    (text,) = curves(run)
    assert text["title"] == "Text, nats/token"
    assert [len(line["dots"]) for line in text["lines"]] == [3, 1]
    assert [band["text"] for band in text["bands"]] == ["512", "2K"]
    images = [{"kind": "eval", "stage": "first", "step": 1, "images": 16, "psnr": 12.5, "seconds": 1.0}]
    (frames,) = curves(run | {"unit": "images", "rows": images})
    assert frames["lines"][0]["dots"][0]["text"] == "held out: 12.5 at 16"


def test_stages_hold_what_was_done_and_how_long_it_took(workdir):
    first, second = read_run(workdir, {})["stages"]
    assert (first["done"], first["start"], first["end"], first["seconds"]) == (2, 0, 2000, 6.0)
    assert (second["done"], second["start"], second["end"], second["seconds"]) == (1, 2000, 3000, 84.0)
    assert (second["length"], second["theta"], second["mesh"]) == ("2K", "100K", {"data": 2, "seq": 4})


@pytest.mark.parametrize(
    ("unit", "value", "baseline", "better", "verdict"),
    [
        ("bits/byte", 2.5, 3.0, True, "17 % below"),
        ("nats/token", 3.0, 2.5, False, "20 % above"),
        ("dB", 20.0, 12.5, True, "7.5 dB above"),
        ("share", 0.0, 0.1, False, "below"),
        ("share", 0.1, 0.1, False, "equal to"),
        ("share", 0.1, None, None, ""),
    ],
)
def test_verdict_knows_which_side_is_better(unit, value, baseline, better, verdict):
    row = judged({"name": "x", "value": value, "unit": unit, "baseline": baseline})
    assert (row["better"], row["verdict"]) == (better, verdict)


def test_needle_grid_leaves_holes_open():
    cells = [{"length": 512, "depth": 0}, {"length": 2048, "depth": 100}]
    grid = needle_grid({"cells": cells})
    assert grid["lengths"] == ["512", "2K"]
    assert [row["cells"] for row in grid["rows"]] == [[cells[0], None], [None, cells[1]]]
    assert needle_grid(None) == {}


def test_chart_places_points_inside_the_plot_and_drops_what_is_no_number():
    points = [(0, 1.0), (50, float("nan")), (100, 3.0)]
    drawn = charts.chart(title="t", x_label="x", lines=[charts.Line("a", "train", "text", points)])
    left, right = (dot["x"] for dot in drawn["lines"][0]["dots"])
    high, low = (dot["y"] for dot in drawn["lines"][0]["dots"])
    assert (left, right) == (drawn["plot"]["left"], drawn["plot"]["right"])
    assert (high, low) == (drawn["plot"]["bottom"], drawn["plot"]["top"])
    empty = charts.Line("a", "train", "text", [])
    assert charts.chart(title="t", x_label="x", lines=[empty]) == {}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (4.9, 7.6, [4, 5, 6, 7, 8]), (3, 3, [3])],
)
def test_ticks_are_round_and_cover_the_range(low, high, expected):
    assert charts.ticks(low, high) == expected


@pytest.mark.parametrize(("value", "text"), [(0.01234, "0.0123"), (2.5, "2.5"), (12300.0, "12300"), (0, "0")])
def test_short_numbers(value, text):
    assert charts.short(value) == text


def test_rows_forgive_only_a_last_line_that_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert read_rows(path) == [{"a": 1}]
    path.write_text('{"a": 1\n{"a": 2}\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_rows(path)


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(UserError, match=f"workdir: {tmp_path} has no config.json"):
        build(tmp_path)
