"""The sweep of the DreamLLM miniature: what arms have in common, colours in words, and what its rows say."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from experiments import dreamllm, dreamllm_arms, dreamllm_miniature, dreamllm_verdicts, sweeps
from experiments.dreamllm_arms import ARMS, compute
from experiments.dreamllm_colour import colour_of
from experiments.dreamllm_figure import draw
from experiments.dreamllm_verdicts import compared, doublings, in_words, means
from lwm.data.interleaved_pieces import Marks, pieces_of
from lwm.data.interleaved_records import PageRecord
from lwm.data.interleaved_rows import nothing


def test_parts_are_trained_before_they_are_joined():
    """By name they would come last."""
    stages = dreamllm_miniature.get_config().stages
    assert list(stages) == ["parts", "align", "igpt", "instruct"]
    assert not set(stages.parts.trains) & set(stages.align.trains)


def test_arms_are_matched_in_examples_or_in_compute():
    joint, alone = ARMS["joint"], (ARMS["comprehension"], ARMS["creation"])
    assert {source: rows for arm in alone for source, rows in arm.rows.items()} == joint.rows
    assert compute(joint) == 1 == pytest.approx(sum(map(compute, alone)))
    for name in ("comprehension_flops", "creation_flops"):
        assert compute(ARMS[name]) == pytest.approx(1, abs=0.05)
    assert compute(ARMS["queries_1"]) < compute(ARMS["creation"]) < compute(ARMS["queries_64"])
    assert dreamllm.get_config("arm=align").stages.join.align_weight > 0


@pytest.mark.parametrize("arm", [arm for arm in ARMS.values() if arm.parts])
def test_rows_hold_as_many_pictures_whatever_the_queries(arm):
    marks = Marks(bos=1, eos=2, dream_start=259, queries=arm.queries, patches=16)
    page = PageRecord(
        name="a stamp with 45 bytes",
        tokens=np.full(45, 100, np.int32),
        lengths=np.array([45, 0]),
        learned=np.ones(2, bool),
        images=np.zeros((1, 2, 2, 3), np.uint8),
        positions=np.array([1]),
    )
    room = arm.length - nothing(marks, 0).example.slots
    for form in ("creation", "comprehension"):
        (piece,) = pieces_of(page, form, marks, slots=room, images=1)
        assert 0 <= room - dreamllm_arms.PICTURES * piece.example.slots < arm.length / 2


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((10, 10, 10), "black"),
        ((128, 128, 128), "grey"),
        ((200, 20, 20), "red"),
        ((255, 150, 0), "orange"),
        ((120, 80, 40), "brown"),
        ((240, 220, 0), "yellow"),
        ((0, 160, 0), "green"),
        ((30, 60, 220), "blue"),
        ((140, 30, 180), "purple"),
        ((255, 255, 255), "white"),
    ],
)
def test_colour_of_what_is_not_background(rgb, word):
    image, content = Image.new("RGB", (9, 9), "white"), io.BytesIO()
    image.paste(rgb, (3, 3, 6, 6))
    image.save(content, "PNG")
    assert colour_of(content.getvalue()) == word


def test_verdicts_need_seeds_and_know_what_is_better():
    values = {
        ("joint", "questions_what_is_this_nats"): (1.0, 1.1, 1.2),
        ("comprehension", "questions_what_is_this_nats"): (2.0, 2.1, 2.2),
        ("creation", "stamps_fd_cls_2"): (3.0, 5.0, 4.0),
        ("joint", "stamps_fd_cls_2"): (4.0, 3.0, 5.0),
        ("parts", "encoder_stamps_fd_cls_2"): (1.0,),
    }
    rows = [
        {"arm": arm, "name": name, "seed": str(seed), "steps": "9", "value": str(value)}
        for (arm, name), own in values.items()
        for seed, value in enumerate(own)
    ]
    rows.append(rows[0] | {"steps": "3", "value": "99"})  # of a shorter run
    found = {(row.arms, row.what): row for row in compared(rows)}
    assert "joint against creation: no difference seen in 1 of 1 scores" in in_words(list(found.values()))
    said = found["joint against comprehension", "questions_what_is_this_nats"]
    assert (said.one, said.other, said.verdict) == (pytest.approx(1.1), pytest.approx(2.1), "better")
    assert found["joint against creation", "stamps_fd_cls_2"].verdict == "no difference seen"
    assert found["creation against parts", "stamps_fd_cls_2"].verdict == "one seed"
    assert len(found) == 3
    assert said.gain == pytest.approx(1) and found["joint against creation", "stamps_fd_cls_2"].gain == 0


def test_means_of_arms_stand_beside_their_baselines():
    name, drew = "questions_which_kind_is_this_accuracy", "stamps_fd_cls_2"
    about = {"steps": "9", "baseline": ""}
    rows = [
        about | {"arm": "joint", "name": name, "seed": str(seed), "value": str(value), "baseline": "0.25"}
        for seed, value in enumerate((0.25, 0.75))
    ]
    rows.append(about | {"arm": "parts", "name": f"encoder_{drew}", "seed": "0", "value": "1.5"})
    head, _, *lines = means(rows)
    places = [place.strip() for place in head.split("|")]
    found = [dict(zip(places, (cell.strip() for cell in line.split("|")), strict=True)) for line in lines]
    assert [line["arm"] for line in found] == ["joint", "parts", "baseline"]
    assert [line["kind read"] for line in found] == ["0.5", "", "0.25"]
    assert [line["FD-cls"] for line in found] == ["", "1.5", ""]


def test_the_command_prints_verdicts_sentences_and_means(tmp_path, monkeypatch, capsys):
    table = sweeps.Table(tmp_path / "rows.csv", dreamllm.COLUMNS, dreamllm.KEY)
    for arm, value in (("joint", 0.5), ("comprehension", 0.25)):
        name = "questions_which_kind_is_this_accuracy"
        table.add({"arm": arm, "seed": 0, "steps": 9, "name": name, "value": value, "baseline": 0.125})
    monkeypatch.setattr("sys.argv", ["verdicts", f"--csv={table.path}"])
    capsys.readouterr()
    dreamllm_verdicts.main()
    said = capsys.readouterr().out.splitlines()
    assert said[2].startswith("| joint against comprehension |") and said[2].endswith("| 1 | one seed |")
    assert said[4] == "joint against comprehension: one seed in 1 of 1 scores"
    assert [line.split(" | ")[:2] for line in said[-3:]] == [
        ["| joint", "0.5"],
        ["| comprehension", "0.25"],
        ["| baseline", "0.125"],
    ]


def test_a_doubling_of_the_queries_counts_seeds_that_have_all_numbers():
    counts = {"creation": 8} | {f"queries_{count}": count for count in dreamllm_arms.QUERIES}
    rows = [
        {"arm": arm, "name": "stamps_fd_cls_2", "seed": seed, "steps": "400", "value": f"{value}"}
        for arm, count in counts.items()
        for seed, value in (("0", 3 - math.log2(count)), ("1", 5 - 3 * math.log2(count)), ("2", 0.0))
        if (arm, seed) != ("queries_2", "2")
    ]
    line = "stamps_fd_cls_2: -2 [-15, 11] for each doubling of the queries, 2 seeds of 7 numbers of queries"
    assert list(doublings(rows)) == [line]


def test_verdicts_compare_equal_steps_and_pairs_of_parts_the_longest_of_each():
    def row(arm, name, steps, value, seed="0"):
        return {"arm": arm, "name": name, "seed": seed, "steps": str(steps), "value": str(value)}

    said, drew = "questions_what_is_this_nats", "stamps_fd_cls_2"
    rows = [
        *(row("joint", said, steps, value) for steps, value in ((100, 3), (400, 1))),
        *(row("comprehension", said, steps, value) for steps, value in ((100, 2), (50, 9))),
        row("comprehension_flops", said, 200, 5),
        *(row("creation", drew, steps, value) for steps, value in ((400, 6), (100, 9))),
        row("joint", drew, 400, 4, seed="1"),
        row("joint", drew, 100, 8),
        row("parts", f"encoder_{drew}", 1000, 7),
    ]
    found = {(row.arms, row.what): (row.one, row.other) for row in compared(rows)}
    assert found == {
        ("joint against comprehension", said): (3, 2),
        ("joint against creation", drew): (8, 9),
        ("creation against parts", drew): (6, 7),
    }


def test_the_figure_shows_each_arm_that_has_rows():
    said = (
        "questions_what_is_this_chrf",
        "questions_which_kind_is_this_accuracy",
        "questions_what_is_this_nats",
    )
    names = [(arm, name) for arm in ("joint", "comprehension") for name in said]
    names += [(arm, "stamps_fd_cls_2") for arm in ("creation", "queries_1", "queries_64")]
    rows = [
        {"arm": arm, "name": name, "seed": str(seed), "steps": "9", "value": str(value)}
        for arm, name in names
        for seed, value in enumerate((1.0, 2.0, 4.0) if arm == "joint" else (2.0, 4.0, 6.0))
    ]
    synergy, queries, guidance = draw(rows).axes
    assert synergy.containers[0].lines[0].get_xdata() == pytest.approx([7 / 3 - 4, 100 * (7 / 3 - 4)])
    assert queries.containers[0].lines[0].get_xdata() == pytest.approx([1, 8, 64])
    assert len(synergy.containers) == len(queries.containers) == 1 and not guidance.containers
