"""Held-out questions about clips: the loss of training, the share that is right, and what is refused."""

import itertools

import jax
import numpy as np
import pytest

from lwm.assessment import clip_answers, held_out, subject
from lwm.data.clip_questions import make_question_batches
from lwm.errors import UserError
from lwm.serving import sampling

EASY = {"data": "", "stage": None, "max_tokens": 2 * 32 * 256, "track": lambda items, title: items}


def test_the_loss_is_that_of_training(clip_run, one_device):
    stage, values = clip_answers.evaluate_answers(clip_run, **EASY)
    run = sampling.load(clip_run)
    batches = make_question_batches(
        run.data, split="heldout", mixture=run.block["mixture"], frames=16, shown=8, context_length=256,
        batch_size=32, seed=clip_answers._SEED,
    )  # fmt: skip
    loss = jax.jit(lambda batch: run.model.loss(run.params, batch, None)[1])
    found = [loss(batch) for batch in itertools.islice(batches, 2)]
    assert stage == "only" and values["answers"] == 64 == sum(one["denominator"] for one in found)
    assert values["answer_loss"] == pytest.approx(np.mean([one["text_loss"] for one in found]), rel=1e-4)
    assert 0 <= values["answers_right"] <= 1 and values["answers_chance"] == pytest.approx(5 / 16)


def test_an_answer_is_right_if_all_its_tokens_are():
    batch = {
        "segments": np.array([[1, 1, 2, 2, 0], [1, 1, 1, 0, 0]]),
        "weights": np.array([[0, 1, 0.5, 0.5, 0], [0, 0.5, 0.5, 0, 0]]),
    }
    hit_BT = np.array([[False, True, True, False, False], [False, True, True, False, False]])
    assert clip_answers._answers(np.full((2, 5), 2.0), hit_BT, batch) == (6.0, 2, 3)


def test_the_verb_leaves_its_rows(clip_run, one_device, capsys):
    held_out.run(clip_run, **EASY | {"max_tokens": 1}, lengths=(), depths=(0,), samples=0, rope_theta=None)
    assert "answers_right" in capsys.readouterr().out
    assert (clip_run / "evaluation.jsonl").read_text().count("answer_loss") == 1


def test_other_suites_and_texts_are_refused(clip_run, one_device):
    with pytest.raises(UserError, match="suite: .*frames beside its text.*use --suite=heldout"):
        subject.load(clip_run)
    with pytest.raises(UserError, match="haystack: book.txt is for models of text"):
        clip_answers.evaluate_answers(clip_run, **EASY, haystack="book.txt")


@pytest.mark.slow
def test_a_ring_scores_the_same(clip_run, monkeypatch):
    many = clip_answers.evaluate_answers(clip_run, **EASY)[1]
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert clip_answers.evaluate_answers(clip_run, **EASY)[1] == pytest.approx(many, rel=1e-4)
