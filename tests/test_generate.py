"""The verbs generate and chat: flags and files in, text and files out, one line when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def start(verb, *flags, stdin=""):
    command = [sys.executable, "-m", f"lwm.{verb}", "--cpu_devices=1", *map(str, flags)]
    how = {"capture_output": True, "text": True, "errors": "surrogateescape", "timeout": 200}
    return subprocess.run(command, cwd=ROOT, input=stdin, **how)


def test_a_picture_becomes_text(runs, tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "black.png")
    flags = [f"--workdir={runs}/lwm", f"--image={tmp_path}/black.png", "--new_tokens=9", "--seed=1"]
    done = start("generate", *flags, "--prompt=It is <vision> all", f"--output={tmp_path}/out/text.txt")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "out/text.txt").read_text()
    assert written.startswith("It is <vision> all") and done.stdout == written + "\n"
    assert "text: 9 tokens" in done.stderr or "text: 8 tokens" in done.stderr


def test_lines_of_prompts_become_lines_of_json(runs, tmp_path):
    (tmp_path / "prompts.txt").write_text("To be\n\nor not to be, that\n")
    done = start("generate", f"--workdir={runs}/text", f"--prompts={tmp_path}/prompts.txt", "--new_tokens=5")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["prompt"] for row in rows] == ["To be", "or not to be, that"]


def test_a_pipe_asks_line_by_line_and_a_line_that_cannot_be_asked_ends_nothing(runs):
    stdin = "Who?\n" + "x" * 600 + "\n\nWh\udcff?\nWhy?\n"
    done = start("chat", f"--workdir={runs}/text", "--new_tokens=4", stdin=stdin)
    assert done.returncode == 0, done.stderr
    too_long, no_text = done.stderr.splitlines()
    assert too_long.startswith("error: question: 6")
    assert no_text == r"error: question: 'Wh\udcff?' is no UTF-8 at character 3; write it in UTF-8"
    assert done.stdout.count("\n") >= 2


@pytest.mark.slow
def test_a_page_of_text_and_pictures_is_written(dream_run, tmp_path):
    flags = [f"--workdir={dream_run}", "--prompt=A ", "--steps=2", "--pictures=1", "--new_tokens=9"]
    done = start("generate", *flags, f"--output={tmp_path}/page", "--sampler=ddim", "--guidance=1")
    assert done.returncode == 0, done.stderr
    assert "2 steps of ddim" in (tmp_path / "page/index.html").read_text()
    assert done.stdout == (tmp_path / "page/page.md").read_text() + "\n"
    for flag, line in (
        ("--steps=0", "steps: 0; a whole number from 1"),
        ("--guidance=-1", "flag --guidance=-1"),
        ("--video=a.mp4", "video: a.mp4 says nothing to a DreamLLM"),
    ):
        wrong = start("generate", *flags, flag)
        assert wrong.returncode == 2 and wrong.stderr.startswith(f"error: {line}")
        assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "flags", "message"),
    [
        ("generate", ["--prompt_file=LONG"], "prompt: 601 tokens leave 0 of the context's 512"),
        ("generate", ["--video=CUT", "--prompt=x"], "cut.mp4 cannot be decoded"),
        ("chat", ["--file=LONG", "--question=Who?"], "long.txt takes"),
        ("chat", ["--video=CUT", "--question=Who?"], "cut.mp4 cannot be decoded"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(runs, tmp_path, verb, flags, message):
    (tmp_path / "long.txt").write_text("x" * 600)
    (tmp_path / "cut.mp4").write_bytes(b"no video" * 99)
    paths = {"LONG": f"{tmp_path}/long.txt", "CUT": f"{tmp_path}/cut.mp4"}
    flags = [flag.replace(name, path) for flag in flags for name, path in paths.items() if name in flag] + [
        flag for flag in flags if not any(name in flag for name in paths)
    ]
    flags += [f"--output={tmp_path}/out.txt"] if verb == "generate" else []
    done = start(verb, f"--workdir={runs}/lwm", *flags)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.mp4", "long.txt"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--guidance=3"], "guidance: 3.0 is for --kind=image"),
        (["--kind=image", "--output=a.gif"], "output: 'a.gif'"),
        (["--kind=any"], "output: ''"),
        (["--prompt=a", "--prompts=b"], "prompts: given together with --prompt"),
        (["--prompt=a\udcff"], r"prompt: 'a\udcff' is no UTF-8 at character 2; write it in UTF-8"),
        (["--image=a", "--video=b"], "video: b, but there is an --image too"),
        (["--kind=video", "--output=a.mp4", "--image=a.png"], "kind: video is made from text alone"),
        (["--steps=3"], "steps: 3 is for a DreamLLM"),
    ],
)
def test_flags_that_contradict_each_other_are_told_before_anything_is_read(flags, message):
    done = start("generate", "--workdir=nowhere", *flags)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1
