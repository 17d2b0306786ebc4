"""Documents of text and pictures in rows: what is learned, where they are cut, and that nothing is lost."""

import itertools
import json
import logging

import numpy as np
import pytest
from PIL import Image

from lwm.data.interleaved_batches import make_page_batches
from lwm.data.interleaved_pieces import Marks, count_split, pieces_of
from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.interleaved_records import PageRecord
from lwm.data.interleaved_rows import Room, nothing, page_row
from lwm.data.picture_moves import STILL, Moves, moved
from lwm.errors import UserError
from lwm.parallel.layout import zigzag_order

MARKS = Marks(bos=1, eos=2, dream_start=90, queries=2, patches=3)
DREAM, SEE = [90, 0, 0, 91], [92, 0, 0, 0, 93]


def page(texts, positions, learned=None):
    """texts: their lengths; ids are 10, 11, …"""
    total = sum(texts)
    return PageRecord(
        name="page",
        tokens=10 + np.arange(total, dtype=np.int32) % 70,
        lengths=np.asarray(texts, np.int32),
        learned=np.ones(len(texts), bool) if learned is None else np.asarray(learned),
        images=np.arange(len(positions), dtype=np.uint8)[:, None, None, None]
        * np.ones((1, 2, 2, 3), np.uint8),
        positions=np.asarray(positions, np.int32),
    )


def whole(record, form, **more):
    (piece,) = pieces_of(record, form, MARKS, slots=1000, images=100, **more)
    return piece


def learned_of(piece):
    return piece.example.tokens[piece.example.loss].tolist()


def test_a_joint_document_is_dreamed_and_seen_and_learns_where_dreams_begin():
    piece = whole(page([2, 1], [1]), "joint")
    assert piece.example.tokens.tolist() == [1, 10, 11, *DREAM, *SEE, 12, 2]
    assert piece.places.tolist() == [0, 0, 0, 0, 4, 5, 0, 0, 1, 2, 3, 0, 0, 0]
    assert learned_of(piece) == [10, 11, 90, 12, 2] and piece.drawn


def test_other_forms_leave_one_half_out():
    seen, drawn = whole(page([2, 1], [1]), "comprehension"), whole(page([2, 1], [1]), "creation")
    assert seen.example.tokens.tolist() == [1, 10, 11, *SEE, 12, 2] and not seen.drawn
    assert learned_of(seen) == [10, 11, 12, 2]
    assert drawn.example.tokens.tolist() == [1, 10, 11, *DREAM, 12, 2] and drawn.drawn
    assert learned_of(drawn) == []


def test_pairs_are_asked_about_or_drawn():
    record = page([2], [1])
    assert whole(record, "pairs").example.tokens.tolist() == [1, *SEE, 10, 11, 2]
    assert whole(page([2], [0]), "pairs", coin=True).example.tokens.tolist() == [1, 10, 11, *DREAM, 2]


def test_a_prompt_is_not_learned():
    assert learned_of(whole(page([2, 1], [1], learned=[False, True]), "joint")) == [90, 12, 2]


@pytest.mark.parametrize("form", ["joint", "comprehension", "creation"])
def test_pieces_lose_nothing_and_cut_no_picture(form):
    rng = np.random.default_rng(0)
    split = 0
    for _ in range(60):
        texts = rng.integers(0, 30, rng.integers(1, 6))
        record = page([*texts, 1], np.sort(rng.integers(0, len(texts) + 2, rng.integers(0, 6))))
        slots, images = int(rng.integers(10, 40)), int(rng.integers(1, 4))
        pieces, all_of_it = pieces_of(record, form, MARKS, slots=slots, images=images), whole(record, form)
        for array in ("tokens", "loss"):
            found = [getattr(piece.example, array) for piece in pieces]
            ours = np.concatenate([getattr(all_of_it.example, array)[:1], *(part[1:] for part in found)])
            np.testing.assert_array_equal(ours, getattr(all_of_it.example, array))
        np.testing.assert_array_equal(np.concatenate([piece.images for piece in pieces]), record.images)
        for piece in pieces:
            assert piece.example.slots <= slots and len(piece.images) <= images
            used = piece.places[:-1][piece.places[:-1] > 0] - 1
            of_one = {"joint": [3, 4, 0, 1, 2], "comprehension": [0, 1, 2], "creation": [3, 4]}[form]
            expected = [5 * number + part for number in range(len(piece.images)) for part in of_one]
            assert used.tolist() == expected
        sizes = np.asarray([[len(record.tokens), len(record.images)]])
        assert count_split(sizes, form, MARKS, slots=slots, images=images) == (len(pieces) > 1)
        split += len(pieces) > 1
    assert split > 20


def test_documents_are_cut_behind_pictures_rather_than_before_them():
    record = page([4, 4, 4], [1, 2, 3])
    pieces = pieces_of(record, "joint", MARKS, slots=30, images=9)
    assert [piece.example.tokens[0] for piece in pieces] == [1, 18]
    pieces = pieces_of(page([20, 4], [1]), "joint", MARKS, slots=25, images=9)
    assert (
        pieces[0].example.tokens[-1] == 90 and pieces[1].example.tokens[0] == 90
    )  # no picture before the cut
    with pytest.raises(UserError, match="context_length: 8 slots do not hold a picture of 9"):
        pieces_of(record, "joint", MARKS, slots=8, images=9)


def test_a_row_by_hand():
    pieces = [whole(page([1, 1], [1]), "joint"), whole(page([1], [0]), "comprehension")]
    pieces += [whole(page([1], [1, 1]), "creation")]
    room = Room(slots=40, spare=nothing(MARKS, 0).example.slots, images=3, frames=5)
    row = page_row(pieces, MARKS, room, resolution=2)
    tokens = [[1, 10, *DREAM, *SEE, 11], [1, *SEE, 10], [1, 10, *DREAM, *DREAM]]
    used = np.concatenate(tokens)
    assert row["tokens"].tolist() == [*used, *[0] * (40 - len(used)), 1, *DREAM]
    assert row["segments"].tolist() == [*[1] * 12, *[2] * 7, *[3] * 10, *[0] * 11, *[4] * 5]
    places = [0, 0, 0, 4, 5, 0, 0, 1, 2, 3, 0, 0], [0, 0, 6, 7, 8, 0, 0], [0, 0, 0, 14, 15, 0, 0, 19, 20, 0]
    assert row["places"].tolist() == [*np.concatenate(places), *[0] * 11, 0, 0, 29, 30, 0]
    np.testing.assert_allclose(row["frame_weights"], [1, 0, 0.5, 0.5, 0])
    assert row["frames"][:, 0, 0, 0].tolist() == [0, 0, 0, 1, 0]
    learned = row["weights"] > 0
    assert row["targets"][learned].tolist() == [10, 90, 11, 2, 10, 2]
    np.testing.assert_allclose(row["weights"][learned], [1 / 4] * 4 + [1 / 2] * 2)
    even = page_row(pieces, MARKS, room, resolution=2, weighting="token")
    np.testing.assert_allclose(even["weights"][learned], [3 / 6] * 6)
    np.testing.assert_allclose(even["frame_weights"], [1, 0, 1, 1, 0])
    assert page_row(pieces, MARKS, Room(40, 0, 3, 5), resolution=2)["segments"].max() == 3


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    where = tmp_path_factory.mktemp("pages")
    rng, lines = np.random.default_rng(0), []
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(where / f"{number}.png")
    for number in range(14):
        texts = ["word " * int(rng.integers(1, 9)) for _ in range(int(rng.integers(1, 4)))]
        count = int(rng.integers(0, 4))
        images = [
            {"path": f"{rng.integers(12)}.png", "position": int(rng.integers(len(texts)))}
            for _ in range(count)
        ]
        lines.append({"texts": texts, "images": images, "source": ("a", "b")[number % 2]})
    (where / "pages.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prepare_pages(
        input=str(where), output=where / "data", resolution=4, heldout=0.2, track=lambda items, *_: items
    )
    return where / "data"


def batches(data, **changes):
    settings = dict(
        split="train",
        mixture={"a": 1, "b": 1},
        forms={"b": "pairs"},
        context_length=96,
        images=3,
        queries=2,
        patches=3,
        drawing=True,
        batch_size=4,
        seed=0,
    )
    return make_page_batches(data, **settings | changes)


def equal(a, b):
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_resumed_is_uninterrupted(data):
    for settings in ({}, {"repeat": False}, {"moves": Moves(1, mirror=True)}):
        all_of_it = list(itertools.islice(batches(data, **settings), 8))
        first = batches(data, **settings)
        for _ in range(3):
            next(first)
        state = json.loads(json.dumps(first.get_state()))
        again = batches(data, **settings)
        next(again)
        again.set_state(state)
        rest = list(itertools.islice(again, 5))
        assert len(rest) == len(all_of_it) - 3 and all(map(equal, rest, all_of_it[3:]))


def test_hosts_and_the_order_of_the_ring(data):
    plain, ring = batches(data), batches(data, ring=2)
    hosts = [batches(data, process_index=index, process_count=2) for index in range(2)]
    order = zigzag_order(96, 2)
    for _ in range(4):
        one, parts = next(plain), [next(host) for host in hosts]
        assert equal(one, {name: np.concatenate([part[name] for part in parts]) for name in one})
        turned = next(ring)
        for name, array in one.items():
            if name not in ("places", "frames", "frame_weights"):
                np.testing.assert_array_equal(turned[name], array[:, order])
        # There is room for one picture more, which "seq" divides; no condition is numbered behind it.
        assert turned["frames"].shape == (4, 4, 4, 4, 3) and one["frames"].shape == (4, 3, 4, 4, 3)
        np.testing.assert_array_equal(turned["frames"][:, :3], one["frames"])
        moved = np.where(one["places"] > 15, one["places"] + 5, one["places"])
        np.testing.assert_array_equal(turned["places"], moved[:, order])


def test_one_pass_shows_every_picture_once(data):
    shown = []
    for batch in batches(data, repeat=False, mixture={"a": 1}, forms={"a": "comprehension"}, drawing=False):
        assert not batch["frame_weights"].any()
        for row in range(4):
            count = (batch["places"][row].max() + 4) // 5
            shown += [batch["frames"][row, i].tobytes() for i in range(count)]
    expected = json.loads((data / "data.json").read_text())["pages"]["a"]["train"]["images"]
    assert len(shown) == expected > 3


def test_pictures_of_training_are_moved_and_held_out_ones_are_not(data):
    about = {"mixture": {"a": 1}, "forms": {"a": "comprehension"}}
    moves = Moves(2, mirror=True)
    one, two = next(batches(data, **about)), next(batches(data, **about, moves=moves))
    assert not np.array_equal(one.pop("frames"), two.pop("frames")) and equal(one, two)
    about |= {"split": "heldout", "repeat": False, "batch_size": 1}
    for one, two in zip(batches(data, **about), batches(data, **about, moves=moves), strict=True):
        assert equal(one, two)


def test_moves_are_shifts_with_edges_and_mirrors():
    """Every one of them occurs, and nothing else."""
    rows, columns = np.meshgrid(np.arange(4), np.arange(4), indexing="ij")
    picture = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    at = [np.clip(np.arange(4) + shift, 0, 3) for shift in (-1, 0, 1)]
    wanted = {picture[np.ix_(down, right)].tobytes() for down in at for right in at}
    mirrored = {picture[np.ix_(down, right)][:, ::-1].tobytes() for down in at for right in at}
    many = np.repeat(picture[None], 400, axis=0)
    for mirror, expected in ((False, wanted), (True, wanted | mirrored)):
        found = moved(many, Moves(1, mirror), np.random.default_rng(0))
        assert {own.tobytes() for own in found} == expected
    assert np.array_equal(moved(many, STILL, np.random.default_rng(0)), many)


def test_documents_that_are_split_are_counted(data, caplog):
    with caplog.at_level(logging.WARNING):
        batches(data, context_length=64, mixture={"a": 1}, forms={})
    (record,) = caplog.records
    assert record.getMessage().endswith("they are split at their pictures, nothing is lost")
    assert record.getMessage().startswith("a: ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"c": 1}}, "mixture: there is no source 'c' of pages; the data has"),
        ({"mixture": {}}, "mixture: {} has no source of positive weight"),
        ({"forms": {"a": "both"}}, "forms.a: 'both' is no form; choose from joint"),
        (
            {"context_length": 14},
            "context_length: 14 does not hold a picture of 2 queries and 3 patches; give 15",
        ),
        (
            {"context_length": 10, "mixture": {"b": 1}},
            "context_length: 10 does not hold a picture of 2 queries and 3 patches; give 11",
        ),
        ({"moves": Moves(4)}, "shift: 4 moves pictures of 4 pixels out of sight; use less"),
        ({"batch_size": 3, "process_count": 2}, "batch_size: 3 rows cannot be shared evenly by 2 hosts"),
    ],
)
def test_what_does_not_fit_is_named(data, changes, message):
    with pytest.raises(UserError) as error:
        batches(data, **changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
