import pytest

from lwm.data.task_records import Record, check_modality
from lwm.data.tasks import TASKS, bases, words
from lwm.errors import UserError


def record(base, source="", target=""):
    return Record(key=base, base=base, source=source, target=target)


def test_items_that_share_words_have_one_base_however_far_it_reaches():
    found = bases(
        [
            (record("b", "uno", "A cat."), True),
            (record("c", "dos", "The Cat"), True),
            (record("d", "Dos!", "three"), True),
            (record("a", "", "THREE"), True),
            (record("e", "cuatro", "four"), True),
            (record("f", "tree", "Name"), False),
            (record("g", "other", "Name"), False),
            (record("b", "", "five"), True),
            (record("h", "five?", ""), True),
            (record("i", "...", ""), True),
            (record("j", "?", ""), True),
        ]
    )
    assert found == {**dict.fromkeys("abcdh", "a"), "e": "e", "f": "f", "g": "g", "i": "i", "j": "j"}


def test_words_leave_out_case_punctuation_and_the_first_article():
    assert words("  The Sun, and the_Moon! ") == words("sun and the moon") == "sun and the moon"
    assert words("Añadió á 3") == "añadió á 3" and words("¿…?") == ""
    assert words("theory") == "theory"


@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_sees_what_its_kind_takes_and_nothing_else(name):
    whole = Record("k", "b", b"png", [1, 2], 8000, "in", "out", "class")
    seen = TASKS[name].view(whole)
    check_modality(seen, name, TASKS[name].kind)
    expected = {
        "classify": Record("k", "b", image=b"png", label="class"),
        "caption": Record("k", "b", image=b"png", target="out"),
        "speech": Record("k", "b", waveform=[1, 2], rate=8000, target="out"),
        "translate": Record("k", "b", source="in", target="out"),
    }[TASKS[name].kind]
    if TASKS[name].swapped:
        expected = expected._replace(source="out", target="in")
    assert [str(field) for field in seen] == [str(field) for field in expected]


@pytest.mark.parametrize("kind", ["classify", "caption", "speech"])
def test_a_sample_of_another_modality_is_named(kind):
    with pytest.raises(UserError) as error:
        check_modality(record("verse:1", "a", "b"), "hearing", kind)
    said = str(error.value)
    assert "task hearing: sample 'verse:1' has no " in said and repr(kind) in said and "\n" not in said
