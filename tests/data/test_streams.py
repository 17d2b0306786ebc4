import numpy as np
import pytest

from lwm.data.datasets import Document
from lwm.data.fields import parse_fields
from lwm.data.streams import Marks, Stream, example_of, shuffled
from lwm.errors import UserError

MARKS = Marks(bos=1, eos=2, vision_start=(50, 51), vision_end=(60,), tokens_per_frame=3, eov=101)
EOF = 100


def film(frames, caption=(7, 8), fields=("[caption],vision", "[vision],caption")):
    """Frame k is (10 k, 10 k + 1, eof)."""
    ids = np.stack([10 * np.arange(frames), 10 * np.arange(frames) + 1, np.full(frames, EOF)], 1).reshape(-1)
    ids[-1] = MARKS.eov
    return Document(
        names=("caption", "vision"),
        tokens=np.concatenate([caption, ids]).astype(np.int32),
        lengths=np.asarray([len(caption), len(ids)], np.int32),
        vision=np.asarray([False, True]),
        fields=fields,
        bytes=9,
    )


def build(document, fields, slots=1000, draw=0.0):
    return example_of(document, parse_fields(fields), MARKS, slots=slots, draw=draw)


def test_a_captioned_film_is_laid_out_as_in_lwm():
    one = build(film(2), "[caption],vision")
    assert one.tokens.tolist() == [1, 7, 8, 50, 51, 0, 1, EOF, 10, 11, 101, 60, 2]
    assert one.is_vision.tolist() == [False] * 5 + [True] * 6 + [False] * 2
    assert one.loss.tolist() == [False] * 3 + [True] * 10


def test_the_other_order_learns_the_caption():
    one = build(film(1), "[vision],caption")
    assert one.tokens.tolist() == [1, 50, 51, 0, 1, 101, 60, 7, 8, 2]
    assert one.loss.tolist() == [False] * 7 + [True] * 3


@pytest.mark.parametrize(("slots", "frames"), [(8, 0), (9, 1), (11, 1), (12, 2), (1000, 5)])
def test_whole_frames_fill_the_slots(slots, frames):
    one = build(film(5), "[caption],vision", slots=slots)
    if not frames:
        assert one is None
        return
    assert one.slots <= slots and one.is_vision.sum() == 3 * frames
    assert (
        one.tokens[one.is_vision][-1] == MARKS.eov and (one.tokens[one.is_vision] == EOF).sum() == frames - 1
    )


def test_the_draw_moves_the_window_over_all_places():
    firsts = {build(film(6), "vision", slots=12, draw=draw).tokens[3] for draw in np.linspace(0, 0.999, 50)}
    assert firsts == {0, 10, 20, 30, 40}


def stream(documents, **changes):
    common = {"name": "video", "seed": 0, "lane": 0, "lanes": 1, "repeat": True, "length": 64}
    return Stream(documents, MARKS, **(common | {"caption_dropout": 0.0, "swap_order": True} | changes))


def heads(one, count, room=64):
    return [tuple(one.take(room).tokens[:4].tolist()) for _ in range(count)]


def test_orders_are_swapped_half_of_the_time_and_only_if_asked():
    swapped = [head[1] == 50 for head in heads(stream([film(2)]), 400)]
    assert 0.4 < np.mean(swapped) < 0.6
    assert set(heads(stream([film(2)], swap_order=False), 20)) == {(1, 7, 8, 50)}


def test_captions_are_dropped_at_the_asked_rate_ahead_of_learned_pictures_only():
    first = film(2, fields=("[caption],vision",))
    dropped = [head == (1, 50, 51, 0) for head in heads(stream([first], caption_dropout=0.3), 600)]
    assert 0.25 < np.mean(dropped) < 0.35
    other = film(2, fields=("[vision],caption",))
    assert not any(7 not in stream([other], caption_dropout=1.0).take(64).tokens for _ in range(5))


def test_a_film_longer_than_the_context_is_cut_to_what_a_row_has_left():
    one = stream([film(100)], swap_order=False)
    assert one.take(64).slots == 63
    assert one.take(40).slots == 39
    assert one.take(10) is None, "too little is left for it to be worth while"
    short = stream([film(19)], swap_order=False)
    assert short.take(64).slots == 63
    assert short.take(40) is None, "a film that fits the context is never cut"


def test_no_room_for_a_single_frame_is_said_in_tokens():
    with pytest.raises(UserError, match="context_length: 8 .* 2 tokens of text; give at least 9"):
        stream([film(3)], length=8).take(8)
    assert stream([film(3)], length=9, swap_order=False).take(9).slots == 9


@pytest.mark.parametrize("count", [1, 3, 40, 300])
def test_each_epoch_is_another_permutation(count):
    order = shuffled(count, seed=5)
    epochs = [[int(order[at]) for at in range(epoch * count, (epoch + 1) * count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 3:
        assert epochs[0] != epochs[1] != epochs[2] != list(range(count))
    assert [int(shuffled(count, seed=5)[at]) for at in range(count)] == epochs[0]


def text(*ids):
    return Document(
        ("text",),
        np.asarray(ids, np.int32),
        np.asarray([len(ids)], np.int32),
        np.asarray([False]),
        ("text",),
        1,
    )


def test_lanes_share_the_documents_of_an_epoch():
    documents = [text(at) for at in range(100, 130)]
    lanes = [stream(documents, lane=lane, lanes=3) for lane in range(3)]
    seen = [int(one.take(64).tokens[1]) for one in lanes for _ in range(10)]
    assert sorted(seen) == list(range(100, 130))


def test_one_pass_ends():
    one = stream([text(5, 6, 7), text(8)], repeat=False)
    assert [one.take(2).tokens.tolist() for _ in range(3)] == [[1, 5, 6], [6, 7, 2], [1, 8, 2]]
    assert one.ended and one.take(2) is None


def test_state_in_the_middle_of_a_document():
    one, other = (stream([text(*range(10, 40)), text(*range(50, 80))], seed=3) for _ in range(2))
    for _ in range(5):
        one.take(7)
    other.set_state(one.get_state())
    for room in (7, 20, 64, 3):
        assert (one.take(room).tokens == other.take(room).tokens).all()
