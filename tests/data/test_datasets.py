import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from lwm.data import datasets
from lwm.data.recipes import Recipe
from lwm.errors import UserError


def document(at):
    return datasets.Document(
        names=("caption", "vision"),
        tokens=np.arange(at, 2 * at + 3, dtype=np.int32),
        lengths=np.asarray([at, 3], np.int32),
        vision=np.asarray([False, True]),
        fields=("[caption],vision", "[vision],caption"),
        bytes=7 * at,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("datasets")
    recipe = Recipe(range(40), lambda at: [datasets.record_of(document(at))])
    datasets.write_documents(path, "video", {"train": recipe})
    return path


def test_documents_come_back_as_they_were_in_order(written):
    source = datasets.documents(written, "video", "train")
    assert len(source) == 40
    for at, found in enumerate(source.__getitems__(range(40))):
        expected = document(at)
        for name in ("tokens", "lengths", "vision"):
            assert getattr(found, name).dtype == getattr(expected, name).dtype
            assert (getattr(found, name) == getattr(expected, name)).all()
        assert found[0] == expected[0] and found[4:] == expected[4:]
    assert source[3].parts()["vision"].tolist() == [6, 7, 8]


def test_tfds_alone_reads_them(written):
    record = tfds.builder_from_directory(written / "documents" / "video" / "1.0.0").as_data_source("train")[2]
    assert record["tokens"].tolist() == [2, 3, 4, 5, 6]


def test_a_split_that_was_not_written_is_empty(written):
    assert len(datasets.documents(written, "video", "heldout")) == 0


def test_a_source_that_is_missing_is_named(written):
    with pytest.raises(UserError, match="documents/chat/1.0.0 does not exist"):
        datasets.documents(written, "chat", "train")
    with pytest.raises(UserError, match="frames/1.0.0 does not exist"):
        datasets.frames(written, "train")


def test_a_failed_write_leaves_nothing(tmp_path):
    def records(at):
        yield datasets.record_of(document(1))
        raise KeyError("no second one")

    with pytest.raises(KeyError):
        datasets.write_documents(tmp_path, "text", {"train": Recipe([0], records)})
    assert not [path for path in (tmp_path / "documents").rglob("*") if path.is_file()]


def test_a_split_that_tfds_would_sort_by_tensorflow_is_written_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)
    recipe = Recipe(range(9), lambda at: [datasets.record_of(document(at))])
    datasets.write_documents(tmp_path, "video", {"train": recipe})
    assert [one.bytes for one in datasets.documents(tmp_path, "video", "train")] == list(range(0, 63, 7))


def test_frames_are_the_pictures_of_the_films(data_dir):
    train, heldout = (datasets.frames(data_dir, split) for split in ("train", "heldout"))
    assert train[0].shape == (8, 8, 3) and train[0].dtype == np.uint8
    levels = [frame.mean() for frame in train.__getitems__(range(40))]
    assert np.abs(np.subtract(levels, 5 * np.arange(40))).max() < 4, "the first 40 of 48 frames of long.mp4"
    assert np.abs(np.subtract([heldout[at].mean() for at in range(8)], 5 * np.arange(40, 48))).max() < 4
