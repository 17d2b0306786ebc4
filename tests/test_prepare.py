"""The verb: flags in, one line out when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def run(*flags):
    return subprocess.run(
        [sys.executable, "-m", "lwm.prepare", *flags], capture_output=True, text=True, cwd=ROOT, timeout=100
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    path = tmp_path_factory.mktemp("verb")
    (path / "in").mkdir()
    for at in range(12):
        (path / "in" / f"{at}.txt").write_text(f"Text number {at}.\n" * 40)
        Image.fromarray(np.full((9, 9, 3), 20 * at, np.uint8)).save(path / "in" / f"{at}.png")
    (path / "in" / "bad.jpg").write_bytes(b"bad")
    return path / "in", path / "out"


def test_it_reports_what_it_made_and_resumes(folders):
    flags = [f"--input={folders[0]}", f"--output={folders[1]}", "--resolution=8", "--vocab_size=300"]
    first, again = run(*flags), run(*flags)
    assert first.returncode == again.returncode == 0, first.stderr
    assert "text train: 11 documents" in first.stdout and "frames: 11 train, 1 heldout" in first.stdout
    assert "broken: bad.jpg cannot be decoded" in first.stderr
    assert "1 broken files or lines left out" in first.stdout
    assert again.stdout == first.stdout
    assert "frames: 13 files" in first.stderr and "files" not in again.stderr


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with three pictures, and a manifest of four lines that name another one as well."""
    path = tmp_path_factory.mktemp("pages")
    for at in range(3):
        Image.new("RGB", (9, 6), (100 * at, 0, 0)).save(path / f"{at}.png")
    known = "The words that the tokenizer learns, a pack of five dozen liquor jugs,"
    lines = [
        {"texts": [known], "images": [{"path": "0.png", "position": 1, "similarity": 0.1}]},
        {"texts": [known, " or not."], "images": [{"path": "1.png", "position": 1, "similarity": 0.3}]},
        {"texts": ["Lost."], "images": [{"path": "3.png", "position": 0}]},
        {"texts": ["a"], "images": [{"path": "2.png", "position": 0}], "source": "own", "split": "heldout"},
    ]
    (path / "album.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return path


def test_pages_of_ones_own_are_made_and_made_once(pages, tmp_path):
    flags = ["--pages", f"--input={pages}", f"--output={tmp_path / 'out'}", "--resolution=8", "--heldout=0"]
    stopped = run(*flags, "--tokenizer=bytes")
    assert stopped.returncode == 2 and list(tmp_path.iterdir()) == []
    lost = "album.jsonl:3: images[0].path: '3.png' does not exist; mend it or pass --skip_broken"
    assert stopped.stderr == f"error: {lost}\n"
    flags += ["--tokenizer=train", "--vocab_size=300", "--min_similarity=0.25", "--skip_broken"]
    first, again = run(*flags), run(*flags)
    assert first.returncode == again.returncode == 0, first.stderr
    done = json.loads((tmp_path / "out/data.json").read_text())
    tokens = {source: by[split]["tokens"] for source, by in done["pages"].items() for split in by}
    assert done["vocab_size"] == 300 and (tmp_path / "out/tokenizer.model").exists()
    assert first.stdout.splitlines() == [
        f"album train: 3 documents, {tokens['album']} tokens, 1 images",
        f"own heldout: 1 documents, {tokens['own']} tokens, 1 images",
        "dissimilar: 1 pictures less similar than 0.25 left out",
        f"{tmp_path / 'out'} is ready; 1 broken lines or pictures left out",
    ]
    assert again.stdout == first.stdout and "album (train): 3 documents" in first.stderr
    assert again.stderr == f"broken: {lost.replace('path: ', 'path ')}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pages", "--views=1"], "views: 1 says nothing to --pages"),
        (["--pages", "--tokenizer=a.model"], "tokenizer: a.model is neither bytes nor train"),
        (["--pages", "--tokenizer=bytes", "--vocab_size=300"], "vocab_size: 300 is for --tokenizer=train"),
        (["--pages", "--tokenizer=bytes", "--beam_options=a=b"], "beam_options: a=b is for Beam"),
        (["--min_similarity=0"], "min_similarity: 0.0 is for --pages"),
        (["--skip_broken"], "skip_broken: True is for --pages"),
    ],
)
def test_flags_that_do_not_go_with_or_without_pages_are_told(pages, tmp_path, flags, message):
    done = run(f"--input={pages}", f"--output={tmp_path / 'out'}", *flags)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fps=-1"], "fps"),
        (["--heldout=0.7"], "heldout: 0.7 is not a share"),
        (["--vqgan=/no/such/workdir"], "/no/such/workdir"),
        (["--vocabsize=300"], "vocabsize"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folders, tmp_path, flags, message):
    done = run(f"--input={folders[0]}", f"--output={tmp_path / 'out'}", "--tokenizer=bytes", *flags)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
