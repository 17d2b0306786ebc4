"""Records made rows, and those that are damaged or disagree with their folder."""

import numpy as np
import pytest

from lwm.data import task_rows
from lwm.data.task_records import Record, encode_png
from lwm.errors import UserError


def row_builder():
    sizes = {"resolution": 8, "rate": 100, "samples": 140, "lengths": {"source": 3, "target": 2}}
    return task_rows.RowBuilder(["animals", "symbols"], **sizes, encode=lambda text: [*map(ord, text), 2])


def image(*shape):
    return encode_png(np.zeros((*shape, 3), np.uint8))


SOUND = {"waveform": np.ones(9, np.int16), "rate": 100}


@pytest.mark.parametrize(
    ("record", "kind", "message"),
    [
        (
            Record("r", "b", image=b"\x89PNG\r\n", label="animals"),
            "classify",
            "image of sample 'r' is damaged",
        ),
        (Record("r", "b", image=b"", target="x"), "caption", "task some: sample 'r' has no image"),
        (Record("r", "b", target="x"), "speech", "task some: sample 'r' has no waveform"),
        (Record("r", "b", source="x"), "translate", "task some: sample 'r' has no target"),
    ],
)
def test_a_record_that_is_damaged_is_named(record, kind, message):
    with pytest.raises(UserError, match=message) as error:
        row_builder().build(record, "some", kind)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        (
            {"image": image(8, 8), "label": "toys"},
            "classify",
            "label is 'toys', needed one of animals, symbols",
        ),
        ({"image": image(8, 5), "label": "animals"}, "classify", "image has 5 x 8 pixels, needed 8 x 8"),
        ({"image": image(9, 9), "target": "x"}, "caption", "image has 9 x 9 pixels, needed 8 x 8"),
        ({"image": image(8, 8), "target": "xy"}, "caption", "target has 3 tokens, needed at most 2"),
        (SOUND | {"rate": 16, "target": "x"}, "speech", "rate is 16, needed 100"),
        (
            SOUND | {"waveform": np.ones(141, np.int16), "target": "x"},
            "speech",
            "waveform has 141 samples, needed at most 140",
        ),
        ({"source": "long", "target": "x"}, "translate", "source has 5 tokens, needed at most 3"),
    ],
)
def test_a_record_that_disagrees_with_its_folder_is_named(fields, kind, message):
    field, rest = message.split(" ", 1)
    with pytest.raises(UserError) as error:
        row_builder().build(Record("r", "b", **fields), "some", kind)
    assert str(error.value) == f"task some: {field} of sample 'r' {rest}; prepare it again"


def test_a_record_that_just_fits_is_a_row():
    row = row_builder().build(Record("r", "b", **SOUND | {"target": "x"}), "some", "speech")
    assert row["samples"] == 9 and row["targets"].tolist() == [ord("x"), 2]
    row = row_builder().build(Record("r", "b", image=image(8, 8), label="symbols"), "some", "classify")
    assert row["labels"] == 1 and row["images"].shape == (8, 8, 3)
