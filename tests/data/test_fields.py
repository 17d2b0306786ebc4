import pytest

from lwm.data.fields import Group, chat_parts, drop_condition, parse_fields, parts_of


def test_brackets_join_and_commas():
    assert parse_fields("[vision+question],answer") == (
        Group(("vision", "question"), False),
        Group(("answer",), True),
    )
    assert parse_fields(" [a] , b + c ") == (Group(("a",), False), Group(("b", "c"), True))
    assert parts_of(["[a+b],c", "c,d"]) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "fields", ["", "[a", "a]", "[a],", "[[a]],b", "a++b", "[a,b],c", "a-b", "[a],a", "[a+b],[c]"]
)
def test_what_is_no_field_string_is_refused(fields):
    with pytest.raises(ValueError, match="fields "):
        parse_fields(fields)


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ("[caption],vision", "vision"),
        ("[vision],caption", "[vision],caption"),
        ("[a+b],c,vision,d", "c,vision,d"),
        ("[vision+question],answer", "[vision+question],answer"),
        ("vision,[a],b", "vision,[a],b"),
    ],
)
def test_only_the_condition_of_a_learned_picture_is_dropped(fields, left):
    assert drop_condition(parse_fields(fields)) == parse_fields(left)


def test_the_chat_template_is_that_of_lwm():
    parts = chat_parts("What is it?", "A dog.", vision=True)
    shown = parts["question"] + "<vision>…</vision>" + parts["assistant"] + parts["answer"]
    assert shown == "You are a helpful assistant. USER: What is it?\n<vision>…</vision> ASSISTANT: A dog."
    assert "".join(chat_parts("Hi?", "Yes.", vision=False).values()) == (
        "You are a helpful assistant. USER: Hi? ASSISTANT: Yes."
    )
