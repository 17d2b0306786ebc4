"""The suites over workdirs with random weights: rows and figures in files, resumed, refused in one line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lwm.assessment import held_out, subject, suites
from lwm.data.preparation import prepare
from lwm.data.tokenizers import ByteTokenizer, train_sentencepiece
from lwm.errors import UserError
from lwm.evaluation import cells
from lwm.generation.cache import Prompt
from lwm.generation.loop import continue_text
from lwm.generation.sampler import Sampling
from lwm.serving import sampling
from lwm.systems import build_model
from lwm.training.checkpoints import StageCheckpoints, stage_folder
from lwm.training.state import TrainState

ROOT = Path(__file__).resolve().parent.parent
TEXT = "".join(
    f"The {animal} sees a river. It naps near the old barn. " for animal in ["fox", "owl", "cat"] * 60
)
CODES, SIDE, P = 16, 16, 4
STAGE = {"context_length": 512, "rope_theta": 1e4, "text_weight": 0.5, "vision_weight": 0.5}


def save(workdir, model, stage, data=None):
    """A workdir as training or conversion leaves it."""
    batch = {name: np.zeros((1, 8), np.int32) for name in ("tokens", "positions", "segments", "is_vision")}
    params = jax.jit(build_model(model, stage).init)(jax.random.key(0), batch)
    config = {"model": model, "stages": {stage["name"]: stage}} | ({"data": {"path": data}} if data else {})
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(config))
    about = {"config": config, "stage": stage}
    state = TrainState(np.int32(0), params, (), jax.random.key(0))
    with StageCheckpoints(
        stage_folder(workdir, 0, stage["name"]), about=about, steps=0, every=0, keep=0
    ) as kept:
        kept.save(0, state, {})
    return workdir


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A model that came from elsewhere: its tokenizer is in the workdir, and there is no data folder."""
    folder = tmp_path_factory.mktemp("imported")
    stage = STAGE | {"name": "imported"}
    model = {"name": "lwm", "size": "debug", "vocab_size": 300, "vision_vocab_size": 0}
    workdir = save(folder / "model", model, stage)
    train_sentencepiece([TEXT], 300, workdir / "tokenizer.model")
    (folder / "book.txt").write_text(TEXT)
    return workdir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on bytes and three held-out pictures that pass for video."""
    folder, random, lines = tmp_path_factory.mktemp("input"), np.random.default_rng(0), []
    for index in range(4):
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        line = {"image": f"{index}.png", "caption": "a picture", "source": "video"}
        split = "heldout" if index else "train"
        lines += [line | {"split": split}, {"text": TEXT, "split": split}]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = tmp_path_factory.mktemp("data") / "prepared"
    prepare(
        input=str(folder),
        output=data,
        tokenizer="bytes",
        resolution=SIDE,
        vqgan="a table",
        load_encoder=lambda workdir: (lambda frames: frames[:, ::8, ::8, 0].reshape(-1, P) % CODES, CODES),
    )
    stage = STAGE | {"name": "only", "mixture": {"text": 1.0, "video": 1.0}}
    model = {"name": "lwm", "size": "debug", "vision_vocab_size": CODES + 2}
    return save(tmp_path_factory.mktemp("trained") / "model", model, stage, str(data))


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def book(workdir):
    return str(workdir.parent / "book.txt")


def rows_in(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(name, workdir, output, **changes):
    """The rows of a suite; `load` of subject.load, the rest wishes."""
    load = changes.pop("load", {})
    wishes = {"lengths": (400,), "depths": (0, 100), "samples": 1, "haystack": book(workdir)} | changes
    return suites.run(name, subject.load(workdir, **load), suites.Wishes(**wishes), output)


@pytest.mark.slow
def test_the_verb_writes_rows_and_figures_of_an_imported_model(imported, tmp_path):
    flags = [f"--workdir={imported}", f"--output={tmp_path}", f"--haystack={book(imported)}", "--samples=1"]
    flags += ["--suite=heldout,needle,multi_needle,ruler,positions", "--lengths=400,700", "--depths=0,100"]
    flags += ["--needles=2/2", "--tasks=single", "--max_tokens=1024", "--rope_theta=20000"]
    command = [sys.executable, "-m", "lwm.evaluate", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "text_bits_per_byte" in done.stdout and "beyond trained length" in done.stdout
    assert json.loads((imported / "needle.json").read_text())["cells"]
    for name, count in (("needle", 4), ("multi_needle", 2), ("ruler", 2), ("positions", 15)):
        rows = rows_in(tmp_path / f"{name}.jsonl")
        assert len(rows) == count and {row["task"] for row in rows} == {name}
        for row in rows:
            assert row["model"] == "model" and row["stage"] == "imported" and row["rope_theta"] == 2e4
            assert row["trained_length"] == 512 and row["haystack"] == "book.txt" and row["seconds"] >= 0
            assert row["note"] == ("beyond trained length" if row["length"] == 700 else "")
            assert row["answer"] == ("generated" if name == "ruler" else "forced")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size == (800, 450) and len(set(image.convert("RGB").getdata())) > 20


@pytest.mark.slow
def test_a_ring_of_devices_measures_the_same(imported, tmp_path):
    """Losses to rounding, answers exactly; the rows know nothing of devices."""
    flags = [f"--workdir={imported}", f"--haystack={book(imported)}", "--samples=2", "--lengths=512"]
    suites, found = ("needle", "ruler", "positions"), []
    flags += [f"--suite={','.join(suites)}", "--depths=0,100", "--tasks=single", "--template=plain"]
    for devices in (1, 4):
        command = [sys.executable, "-m", "lwm.evaluate", *flags, f"--output={tmp_path / str(devices)}"]
        command.append(f"--cpu_devices={devices}")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        folder = tmp_path / str(devices)
        found.append([row for suite in suites for row in rows_in(folder / f"{suite}.jsonl")])
    for one, ring in zip(*found, strict=True):
        for name, value in (one | {"seconds": ring["seconds"]}).items():
            assert ring[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


def test_a_run_goes_on_where_it_was_stopped(imported, tmp_path, monkeypatch):
    whole = run("needle", imported, tmp_path / "whole", depths=(0, 50, 100))
    path, asked = tmp_path / "cut" / "needle.jsonl", []
    path.parent.mkdir()
    lines = (tmp_path / "whole" / "needle.jsonl").read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2] + lines[1][:40])  # the last one was being written
    forced = cells.forced

    def counted(*arguments, **options):
        answer = forced(*arguments, **options)
        return lambda prompts, length: asked.append(length) or answer(prompts, length)

    monkeypatch.setattr(cells, "forced", counted)
    rows = run("needle", imported, path.parent, depths=(0, 50, 100))
    assert len(asked) == 1 and [row["depth"] for row in rows] == [0, 100, 50]
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in whole]
    assert sorted(strip, key=str) == sorted(
        ({k: v for k, v in row.items() if k != "seconds"} for row in rows_in(path)), key=str
    )
    # What was asked otherwise is asked again, and the rows of before stay.
    run("needle", imported, path.parent, depths=(0,), seed=1)
    run("needle", imported, path.parent, depths=(0,), load={"rope_theta": 2e4})
    assert len(asked) == 3 and len(rows_in(path)) == 5


def test_writing_ends_when_all_is_said_and_not_before(imported):
    loaded = subject.load(imported)
    prompts = [loaded.wrap(subject.Question(TEXT[:size], "Who?", ())) for size in (40, 90)]

    def write(new_tokens, *answers):
        asked = [
            cells.Asked.of_text(ids, answer, new_tokens) for ids, answer in zip(prompts, answers, strict=True)
        ]
        return loaded.generate(asked, new_tokens)

    full = continue_text(
        loaded.score.model,
        loaded.score.params,
        [Prompt.of_text(ids) for ids in prompts],
        new_tokens=21,
        sampling=Sampling(temperature=0.0),
        seed=0,
        vocab_size=loaded.tokenizer.vocab_size,
        stop=(loaded.tokenizer.eos,),
    )
    texts = [loaded.tokenizer.decode(ids) for ids in full]
    assert write(21, ("not there",), ("not there",)) == texts
    start = [loaded.tokenizer.decode(ids[:3]) for ids in full]
    assert write(21, (start[0],), ("not there",)) == texts
    short = write(21, (start[0],), (start[1],))
    assert short == [loaded.tokenizer.decode(ids[:8]) for ids in full] != texts


@pytest.mark.slow
def test_theta_changes_what_the_model_computes(imported, tmp_path):
    one = run("positions", imported, tmp_path / "a")[-1]
    other = run("positions", imported, tmp_path / "b", load={"rope_theta": 10.0})[-1]
    assert one["nats"] != other["nats"] and other["rope_theta"] == 10.0
    assert one["perplexity"] == pytest.approx(300, rel=0.3)  # random weights


def test_a_trained_run_reads_its_held_out_text_and_frames(trained, tmp_path):
    rows = run("positions", trained, tmp_path, haystack="")
    assert rows[-1]["documents"] == 1 and rows[-1]["haystack"] == "held out"
    rows = run("video_qa", trained, tmp_path, haystack="", frames=(16,), tasks=("odd", "order"), samples=2)
    assert [(row["kind"], row["shown"]) for row in rows] == [
        ("odd", 16),
        ("odd", 8),
        ("order", 16),
        ("order", 8),
    ]
    assert all(row["n"] == 2 and 0 <= row["low"] <= row["share"] <= row["high"] <= 1 for row in rows)
    assert (tmp_path / "video_qa.png").stat().st_size < 100_000


def test_a_haystack_takes_the_place_of_what_is_held_out(trained, tmp_path):
    path = tmp_path / "other.txt"
    path.write_text("A tale of no more than this. " * 40)
    asked = {
        "max_tokens": 0,
        "lengths": (450,),
        "depths": (0,),
        "samples": 0,
        "track": lambda items, title: items,
    }
    _, values, _ = held_out.evaluate_transformer(trained, data="", stage=None, haystack=str(path), **asked)
    assert values["text_bytes"] == 40 * 29 and "vision_tokens" not in values


def test_the_plain_template_is_that_of_lwm():
    question = subject.Question("Here it is.", "Where?", ("there",), "It is")
    (bos, *ids) = subject.plain(ByteTokenizer())(question)
    text = "You are a helpful assistant. USER: Here it is. Where? "
    text += "Don't give information outside the document. ASSISTANT: It is"
    assert bos == 1 and ByteTokenizer().decode(ids) == text


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("needles", {}, "suite: 'needles' is not known; choose from heldout, needle, multi_needle, ruler"),
        ("needle", {"haystack": "nowhere.txt"}, "haystack: nowhere.txt cannot be read"),
        ("needle", {"haystack": ""}, "haystack: an imported model holds out no text"),
        ("needle", {"lengths": (10**6,)}, "haystack: .*book.txt has .* tokens and 1000000"),
        ("needle", {"depths": (0, 101)}, "depths: 101"),
        ("needle", {"samples": 0}, "samples: 0"),
        ("needle", {"answer": "shouted"}, "answer: 'shouted' is not known; choose from forced, generated"),
        (
            "needle",
            {"load": {"template": "prose"}},
            "template: 'prose' is not known; choose from plain, chat",
        ),
        ("needle", {"load": {"template": "chat"}}, "template: chat, but the tokenizer"),
        ("ruler", {"tasks": ("multi",)}, "tasks: 'multi' is not known; choose from single"),
        ("multi_needle", {"pairs": ((2, 3),)}, "needles: 2/3"),
        ("video_qa", {}, "suite: video_qa needs frames"),
    ],
)
def test_what_cannot_be_done_is_told(imported, tmp_path, name, changes, message):
    with pytest.raises(UserError, match=message):
        run(name, imported, tmp_path, **changes)
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.parametrize(
    "content, message",
    [(b"\xff\xfe\x00\x81", "is no text in UTF-8"), (b"  \n", "has no text"), (b"words", "no full stop")],
)
def test_a_haystack_that_is_no_prose_is_told(imported, tmp_path, content, message):
    (tmp_path / "hay").write_bytes(content)
    with pytest.raises(UserError, match=f"haystack: .*hay.* {message}|haystack: .*hay {message}"):
        run("needle", imported, tmp_path / "out", haystack=str(tmp_path / "hay"))


def test_a_workdir_without_a_tokenizer_is_told(imported, tmp_path):
    with pytest.raises(UserError, match="has no tokenizer and no data folder"):
        sampling.tokenizer_of(tmp_path, "")


def test_the_tokenizer_of_another_model_is_told(imported, tmp_path):
    shutil.copytree(imported, tmp_path / "model")
    train_sentencepiece(
        [TEXT + "Ten more words make a longer list of pieces."], 310, tmp_path / "model/tokenizer.model"
    )
    with pytest.raises(UserError, match="tokenizer: .*model has 310 ids, but the model's vocabulary has 300"):
        subject.load(tmp_path / "model")


def test_lines_tell_what_was_asked_and_found():
    row = {
        "task": "multi_needle",
        "length": 512,
        "needles": 4,
        "asked": 2,
        "share": 0.5,
        "low": 0.2,
        "high": 0.8,
    }
    row |= {"n": 8, "seconds": 1.5, "note": "beyond trained length"}
    expected = "multi_needle length=512 needles=4 asked=2: 0.5 [0.2, 0.8], n=8, 1.5 s (beyond trained length)"
    assert suites.line(row) == expected
