"""Videos beside a prompt: the words of training, and the answer of the whole forward pass."""

import jax
import numpy as np
import pytest

from lwm.data.clip_questions import question
from lwm.data.clips import FRAME_BITS, TASKS
from lwm.data.tokenizers import ByteTokenizer
from lwm.errors import UserError
from lwm.generation.films import picture
from lwm.generation.sampler import Sampling
from lwm.serving import requests, sampling, watching
from lwm.serving.attachments import read_frames

NEW = 5


@pytest.fixture
def run(clip_run, one_device):
    return sampling.load(clip_run)


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("film") / "film.mp4"
    path.write_bytes(picture(rng.integers(0, 256, (20, 16, 24, 3), dtype=np.uint8), ".mp4", fps=8))
    return str(path)


def request(**changes):
    empty = {"prompt": "", "image": "", "video": "", "frames": 0, "chat": False, "vqgan": "", "output": ""}
    how = {"new_tokens": NEW, "sampling": Sampling(temperature=0.0), "seed": 0}
    return requests.Request(**empty | how | changes)


def test_a_question_is_asked_in_the_words_of_training():
    tokenizer = ByteTokenizer()
    learned = question(tokenizer, "odd", 16, 0, "3")
    prompt, starts = watching.prompt_about(tokenizer, TASKS["odd"], 16, chat=True)
    before = int(np.argmax(learned.example.loss))
    assert prompt.tokens.tolist() == learned.example.tokens[:before].tolist()
    seen = np.searchsorted(starts, np.arange(before), side="right")
    assert seen.tolist() == learned.media[:before].tolist()


def test_dots_stand_where_the_mark_is():
    tokenizer = ByteTokenizer()
    prompt, starts = watching.prompt_about(tokenizer, "See <vision> this", 3, chat=False)
    text = tokenizer.decode(prompt.tokens.tolist())
    assert text == "See 1 .\n3 .\n6 . this"
    assert [tokenizer.decode([prompt.tokens[start]]) for start in starts] == [".", ".", "."]


def test_the_greedy_answer_is_that_of_the_whole_forward_pass(run, film, tmp_path, capsys):
    asked = request(prompt=TASKS["odd"], video=film, chat=True, output=str(tmp_path / "answer.txt"))
    requests.write(run, asked)
    answer = (tmp_path / "answer.txt").read_text()
    assert answer and capsys.readouterr().out == answer + "\n"

    shown, resolution = run.block["shown"], run.model.config.resolution
    prompt, starts = watching.prompt_about(run.tokenizer, TASKS["odd"], shown, chat=True)
    L = len(prompt.tokens)
    tokens_BT = np.pad(prompt.tokens, (0, NEW))[None]
    batch = {
        "is_vision": np.zeros((1, L + NEW), bool),
        "segments": np.ones((1, L + NEW), np.int32),
        "positions": np.arange(L + NEW, dtype=np.int32)[None],
        "media": (1 << FRAME_BITS)
        + np.searchsorted(starts, np.arange(L + NEW), side="right").astype(np.int32)[None],
        "frames": read_frames(resolution, video=film, frames=shown)[None],
        "frame_ids": (1 << FRAME_BITS) + 1 + np.arange(shown, dtype=np.int32)[None],
    }
    logits = jax.jit(lambda tokens, frames: run.model.logits(
        run.params, batch | {"tokens": tokens, "frames": frames})[0])  # fmt: skip
    for t in range(L, L + NEW):
        logits_V = logits(tokens_BT, batch["frames"])[0, t - 1, : run.tokenizer.vocab_size]
        tokens_BT[0, t] = np.argmax(logits_V)
    new = tokens_BT[0, L:].tolist()
    new = new[: new.index(run.tokenizer.eos)] if run.tokenizer.eos in new else new
    assert answer == run.tokenizer.decode(new)
    blind = logits(tokens_BT, np.zeros_like(batch["frames"]))
    assert np.abs(np.asarray(blind - logits(tokens_BT, batch["frames"]))).max() > 1e-3


def test_what_cannot_be_looked_at_is_one_line(run, film, tmp_path):
    (tmp_path / "cut.mp4").write_bytes(b"no video" * 99)
    for message, changes in (
        ("video: .*cut.mp4 cannot be decoded", {"video": str(tmp_path / "cut.mp4")}),
        ("frames: 900 need a token each, the context holds 256", {"video": film, "frames": 900}),
        ("prompt: 3.. tokens leave 0", {"video": film, "prompt": "x" * 300}),
        ("<vision> stands 2 times", {"video": film, "prompt": "<vision> or <vision>"}),
    ):
        with pytest.raises(UserError, match=message):
            requests.write(run, request(**changes))
