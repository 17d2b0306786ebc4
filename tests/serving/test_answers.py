"""A MultiModel is asked about files and texts of one's own: they become the rows that training would have."""

import wave

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lwm.data.task_records import Record, encode_png
from lwm.data.task_rows import RowBuilder
from lwm.data.tokenizers import train_sentencepiece
from lwm.errors import UserError
from lwm.generation.beam import Texts
from lwm.models.multimodel import SIZES, MultiModel, MultiModelConfig
from lwm.serving import answers
from lwm.serving.answers import Given, answer
from lwm.serving.task_runs import TaskRun

SIDE, RATE, A, T = 8, 1000, 224, 6
LABELS, HEARD, TURNED = TASKS = ("labels", "heard", "turned")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_sentencepiece(["one two three four five six"] * 20, 290, folder / "tokenizer.model")
    sizes = dict(resolution=SIDE, samples=A, sample_rate=RATE, source_length=T, target_length=T, classes=2)
    sizes |= dict(tasks=TASKS, kinds=("classify", "speech", "translate"), vocab_size=tokenizer.vocab_size)
    model = MultiModel(MultiModelConfig(**SIZES["debug"] | sizes, eos=tokenizer.eos))
    shapes, rng = jax.eval_shape(lambda key: model.init(key, {}), jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda own: jnp.asarray(0.3 * rng.normal(size=own.shape), own.dtype), shapes)
    manifest = {"classes": ["a cat", "a dog"]}
    return TaskRun(model, params, {}, {}, "", manifest, tokenizer, TASKS)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    for name, samples in (("a.wav", A - 56), ("long.wav", A + 40)):
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(rng.integers(-(2**15), 2**15, samples, dtype=np.int16).tobytes())
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    return tmp_path


def builder(run):
    def encode(text):
        return [*run.tokenizer.encode(text), run.tokenizer.eos]

    lengths = {"source": T, "target": T}
    sizes = {"resolution": SIDE, "rate": RATE, "samples": A}
    return RowBuilder(run.manifest["classes"], lengths=lengths, encode=encode, **sizes)


@pytest.mark.parametrize("task", [HEARD, TURNED])
def test_what_is_given_becomes_a_row_of_training(run, files, task, monkeypatch):
    read = []

    def write_texts(model, params, rows, *, beams):
        read.append(rows)
        words = [*run.tokenizer.encode("two one"), run.tokenizer.eos]
        return Texts(np.array([words + [0] * (T - len(words))]), np.zeros(1))

    monkeypatch.setattr(answers, "write_texts", write_texts)
    with wave.open(str(files / "a.wav")) as file:
        waveform = np.frombuffer(file.readframes(A), np.int16)
    record = Record("x", "x", waveform=waveform, rate=RATE, source="one two", target="one")
    given = Given(audio=str(files / "a.wav")) if task == HEARD else Given(prompt="one two")
    assert answer(run, task, given) == "two one"
    expected = builder(run).build(record, task, "speech" if task == HEARD else "translate")
    for name in expected.keys() - {"targets"}:
        np.testing.assert_array_equal(read[0][name], expected[name][None])
    assert read[0]["task"] == [TASKS.index(task)] and read[0]["weights"] == [1]


@pytest.mark.parametrize(
    ("task", "given", "line"),
    [
        ("typo", {"prompt": "one"}, "task: 'typo' is none that the model learned; choose from labels"),
        (TURNED, {}, "prompt: '' is nothing for task turned to read; give --prompt"),
        (TURNED, {"prompt": "one " * 9}, "prompt: .* tokens, the model reads 6; shorten it"),
        (TURNED, {"image": "a.png"}, "image: .*a.png', but task turned reads prompt; give --prompt alone"),
        (HEARD, {"audio": "a.png"}, "audio: .*a.png is no WAV"),
        (HEARD, {"audio": "long.wav"}, "audio: .*long.wav takes 0.3 s, the model hears 0.2 s; cut it"),
        (LABELS, {"image": "cut.png"}, "image: .*cut.png cannot be decoded"),
        (LABELS, {"image": "none.png"}, "image: .*none.png is not a file"),
    ],
)
def test_what_cannot_be_answered_is_told(run, files, task, given, line):
    given = {name: own if name == "prompt" else f"{files}/{own}" for name, own in given.items()}
    with pytest.raises(UserError, match=line):
        answer(run, task, Given(**given))


def test_a_picture_gets_the_likeliest_label(run, files, monkeypatch):
    pixels = np.asarray(Image.open(files / "a.png"))
    seen = []
    monkeypatch.setattr(MultiModel, "predict_labels", lambda self, params, rows: seen.append(rows) or [1])
    assert answer(run, LABELS, Given(image=str(files / "a.png"))) == "a dog"
    kept = builder(run).build(Record("x", "x", image=encode_png(pixels), label="a dog"), LABELS, "classify")
    np.testing.assert_array_equal(seen[0]["images"], kept["images"][None])
