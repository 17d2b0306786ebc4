import io

import numpy as np
import pytest
from PIL import Image

from lwm.data.task_sources import expressions, names, prompts, stamps, verses
from lwm.data.task_sources.reading import Reading
from lwm.errors import UserError

READERS = {
    "stamps": stamps.read_stamps,
    "verses": verses.read_verses,
    "names": names.read_names,
    "prompts": prompts.read_prompts,
    "expressions": expressions.read_expressions,
}


@pytest.fixture
def read(packages):
    """`read(name, folder=packages, **told)`: the records of a source by key."""

    def of(name, folder=packages, **told):
        reading = Reading(str(folder), 8, 100, **{"library": f"{folder}/library"} | told)
        records = list(READERS[name](reading))
        assert len({one.key for one in records}) == len(records)
        return {one.key: one for one in records}

    return of


def test_stamps_are_whole_pictures_on_white_with_captions_and_categories(read):
    found = read("stamps")
    assert len(found) == 20 and "stamp:animals/cat_mirror" not in found
    one = found["stamp:symbols/all/dog"]
    assert (one.target, one.label, one.base) == ("The dog letter.", "symbols", one.key)
    pixels = np.asarray(Image.open(io.BytesIO(one.image)))
    assert pixels.shape == (8, 8, 3)
    assert (pixels[2:6] == (0, 0, 255)).all() and (pixels[:2] == 255).all() and (pixels[6:] == 255).all()


@pytest.mark.parametrize(("size", "shape"), [((200, 1), (32, 1)), ((1, 200), (1, 32)), ((64, 20), (32, 10))])
def test_of_a_thin_picture_at_least_a_line_is_shown(tmp_path, size, shape):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    y, x = np.nonzero((stamps.on_square(tmp_path / "thin.png", 32) == 0).all(-1))
    assert (np.ptp(x) + 1, np.ptp(y) + 1) == shape and len(x) == shape[0] * shape[1]
    for own, edge in ((x, shape[0]), (y, shape[1])):
        assert own.min() == round((32 - edge) / 2)  # in the middle


def test_verses_are_aligned_by_number_and_have_no_marks(read):
    found = read("verses")
    assert len(found) == 37
    one = found["verse:ot:3"]
    assert (one.source, one.target) == ("sol lovear luna & fin.", "The sun loves the moon.")
    assert found["verse:nt:4"]._replace(key="", base="") == one._replace(key="", base="")


def test_osis_is_read_as_it_would_be_aloud():
    text = '<title a="1">Psalm</title><w>Al<b/>pha</w>, <note n="1">or <i>B</i></note>be<title/>ta &lt;\u00a0'
    assert verses.plain(text + "\n") == "Alpha, be ta <"


def test_names_of_one_thing_have_one_base(read):
    found = read("names")
    assert found["name:emoji:\U0001f400"].target == "le cat"
    assert found["name:emoji:\U0001f468\u200d\U0001f680"].source == "the man : rocket"
    by_base = {}
    for key, one in found.items():
        by_base.setdefault(one.base, []).append(key.removeprefix("name:"))
    assert by_base["name:territory:FR"] == ["emoji:\U0001f1eb\U0001f1f7", "territory:FR:territory"]
    assert by_base["name:emoji:\U0001f680"] == ["emoji:\U0001f468\u200d\U0001f680", "emoji:\U0001f680"]
    assert by_base["name:territory:IT"] == ["territory:IT:territory:long"]
    assert by_base["name:unit:time-day"] == ["unit:time-day:displayName"]
    assert len(found) == 16, "no emoji with a skin tone, no arrows, no unit in short"


def test_prompts_have_their_words_and_nothing_that_is_not_said(read):
    found = read("prompts")
    assert len(found) == 10 and not any("beep" in key for key in found)
    one = found["prompt:vm/goat"]
    assert one.target == "Press the goat now: 4." and one.rate == 100
    assert one.waveform.dtype == np.int16
    np.testing.assert_array_equal(one.waveform, (3000 * np.sin(np.arange(80))).astype(np.int16))


def test_expressions_have_exact_trees_and_are_there_once(read):
    found = {one.source: one for one in read("expressions").values()}
    assert found["goat.first(goat, 1)"].target == "(Call (Attribute Name) Name int)"
    assert found["value + goat[1]"].target == "(BinOp Name Add (Subscript Name int))"
    assert found["return_goat(not x)"].target == "(Call Name (UnaryOp Not Name))"
    assert len(found) == 31 and "left_out.entirely()" not in found
    assert {one.base for one in found.values()} >= {"file:goat.py", "file:wolf.py"}


def test_of_one_tree_there_are_only_so_many_expressions(read, monkeypatch):
    monkeypatch.setattr(expressions, "MOST_ALIKE", 4)
    targets = [one.target for one in read("expressions").values()]
    assert {targets.count(target) for target in targets} == {1, 4}


STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps/animals/all"
VERSES = "sword-text-kjv/usr/share/sword/modules/texts/ztext/engKJV"
NAMES = "unicode-cldr-core/usr/share/unicode/cldr/common/main"
WAVS = "asterisk-core-sounds-en-wav/usr/share/asterisk/sounds/en_US/vm"
TEXTS = "asterisk-core-sounds-en/usr/share/doc/asterisk"


@pytest.mark.parametrize(
    ("name", "file", "content", "message", "left"),
    [
        ("stamps", f"{STAMPS}/cat.png", b"\x89PNG\r\n\x1a\n and no more", "cannot be decoded", 19),
        ("stamps", f"{STAMPS}/cat.txt", b"\xff\xfe", "its caption is not UTF-8", 19),
        ("stamps", f"{STAMPS}/cat.txt", b"\nes.utf8=x", "has no caption", 19),
        ("verses", f"{VERSES}/ot.bzz", b"nothing packed", "cannot be unpacked", 1),
        ("verses", f"{VERSES}/nt.bzv", b"odd", "cannot be unpacked", 36),
        ("names", f"{NAMES}/fr.xml", b"<ldml><open>", "cannot be read (no element found", 13),
        ("prompts", f"{WAVS}/cat.wav", b"RIFF and no more", "is no WAV that can be read", 9),
        ("prompts", f"{TEXTS}/core-sounds-en.txt.gz", b"not packed", "cannot be read (Not a gzipped", 0),
        ("expressions", "library/cat.py", b"if if", "is not Python", 28),
    ],
)
def test_a_damaged_file_is_named_or_passed_over(fill, read, tmp_path, name, file, content, message, left):
    fill(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(name, tmp_path)
    said = str(error.value)
    assert file.rsplit(".", 1)[0] in said and message in said and "\n" not in said
    told = []
    assert len(read(name, tmp_path, damaged=told.append)) == left
    assert [str(one) for one in told] == [said]


@pytest.mark.parametrize("name", ["stamps", "verses", "names", "prompts"])
def test_a_package_that_is_missing_is_named_with_what_fetches_it(read, tmp_path, name):
    with pytest.raises(UserError, match=r"has no [\w-]+/usr/share/.*; run launch/task_sources.sh"):
        read(name, tmp_path)


def test_a_folder_without_a_library_is_named(read, tmp_path):
    with pytest.raises(UserError, match="has no .py files of the standard library"):
        read("expressions", library=str(tmp_path))
