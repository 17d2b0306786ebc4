import jax
import numpy as np
import pytest

from lwm.errors import UserError
from lwm.generation import templates
from lwm.generation.cache import Prompt
from lwm.generation.loop import continue_text
from lwm.generation.sampler import Sampling
from lwm.serving import sampling
from lwm.serving.codec import open_codec
from lwm.serving.conversation import Conversation

GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def run(runs, one_device):
    return sampling.load(runs / "lwm")


def talk(run, questions, **changes):
    """(ids of the answer, text of the answer) of each turn."""
    conversation, turns = Conversation(run, **{"sampling": GREEDY, "new_tokens": 20} | changes), []
    for question in questions:
        text = "".join(conversation.ask(question))
        turns.append((conversation.answer, text))
    return turns


def at_once(run, questions, turns, document="", picture=()):
    """The last answer, by a single prompt that holds everything before it."""
    template = templates.template_of(run.tokenizer)
    parts = template.first(questions[0], document=document, picture=picture)
    for question, (ids, _) in zip(questions[1:], turns, strict=False):
        parts += [Prompt.of_text(ids), *template.later(question)]
    prompt = templates.encode(run.tokenizer, parts)
    how = {"new_tokens": 20, "sampling": GREEDY, "seed": 0, "vocab_size": 259, "stop": template.stop}
    return continue_text(run.model, run.params, [prompt], **how)[0]


QUESTIONS = ["Who is it?", "And why is he here, of all places?", "Oh."]


SLOW = [pytest.param(about, marks=pytest.mark.slow) for about in ("nothing", "document")]


@pytest.mark.parametrize("about", [*SLOW, "picture"])
def test_every_turn_is_what_one_long_prompt_would_give(run, about):
    given = {}
    if about == "document":
        given = {"document": "A play of two acts. " * 5}
    elif about == "picture":
        images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
        given = {"picture": open_codec(run, "", "image: 'x'").look(images)}
    turns = talk(run, QUESTIONS, **given)
    for at in range(1, 4):
        assert turns[at - 1][0] == at_once(run, QUESTIONS[:at], turns, **given)
    assert [text for _, text in turns] == [run.tokenizer.decode(ids) for ids, _ in turns]


@pytest.mark.slow
def test_a_ring_of_devices_says_the_same(runs, monkeypatch):
    spread = talk(sampling.load(runs / "lwm"), QUESTIONS, document="A play. " * 20)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert talk(sampling.load(runs / "lwm"), QUESTIONS, document="A play. " * 20) == spread


def test_a_turn_that_does_not_fit_changes_nothing(run):
    free = talk(run, QUESTIONS[:2])
    conversation = Conversation(run, sampling=GREEDY, new_tokens=20)
    "".join(conversation.ask(QUESTIONS[0]))
    with pytest.raises(UserError, match=r"question: \d+ tokens do not fit, \d+ of 512 are used"):
        next(conversation.ask("x" * 480))
    "".join(conversation.ask(QUESTIONS[1]))
    assert conversation.answer == free[1][0]


def test_a_conversation_ends_at_its_room(run):
    conversation, answers = Conversation(run, sampling=GREEDY, new_tokens=20, room=150), []
    with pytest.raises(UserError, match="do not fit"):
        for _ in range(20):
            answers.append("".join(conversation.ask("Why?")))
    assert 2 <= len(answers) <= 6


def test_what_it_is_about_must_fit(run):
    with pytest.raises(UserError, match=r"file: book.txt takes \d+ tokens .* the context holds 512"):
        Conversation(run, about="file: book.txt", document="x" * 500)
