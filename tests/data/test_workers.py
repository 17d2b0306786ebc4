"""Beam makes what one process makes, byte for byte, whatever becomes of its workers."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.utils import shard_utils

from lwm.data import datasets, interleaved_records, task_records
from lwm.data.interleaved_preparation import prepare_pages
from lwm.data.manifest import load_manifest
from lwm.data.recipes import Recipe, shard_keys
from lwm.data.workers import Workers, check_workers
from lwm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent
CLIPS = TEXTS = 200
ON_TWO = [
    "--beam_runner=DirectRunner",
    "--beam_options=direct_num_workers=2",
    "--beam_options=direct_running_mode=multi_processing",
]


def contents(folder):
    """Everything below a folder, by name; prepare.json and data.json included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("total", [1, 2, 3, 7, 9, 11, 100, 1023, 1024, 1025, 3071, 20_001])
def test_keys_cut_a_split_for_beam_where_one_process_cuts_it(total):
    keys = shard_keys(np.arange(total), total).tolist()
    assert all(first < second for first, second in itertools.pairwise(keys))
    for shards in (2**power for power in range(11) if 2**power <= total):
        ends = shard_utils.get_shard_boundaries(total, shards)
        own = np.searchsorted(ends, np.arange(total), side="right").tolist()
        assert [shuffle.get_bucket_number(key, shards, keys[-1]) for key in keys] == own


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("LocalRunner", [], "beam_runner: LocalRunner is not known; give one of DirectRunner, Dataflow"),
        (
            None,
            ["direct_num_workers=2"],
            "beam_options: direct_num_workers=2 is for Beam; give --beam_runner",
        ),
        (
            "DirectRunner",
            ["--direct_num_workers=2"],
            "beam_options: '--direct_num_workers=2' is no name=value",
        ),
        ("DirectRunner", ["runner=FlinkRunner"], "beam_options: 'runner=FlinkRunner' is no name=value"),
    ],
)
def test_flags_without_sense_are_refused(runner, options, message):
    with pytest.raises(UserError, match=message):
        check_workers(runner, options)


def test_without_a_runner_there_are_no_workers():
    assert check_workers(None) is None


def test_beam_that_is_missing_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "apache_beam"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(
        UserError, match="DirectRunner cannot start .Apache Beam is not installed.; pip install .*beam"
    ):
        check_workers("DirectRunner")


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        (
            "DirectRunner",
            ["direct_num_workers=two"],
            "beam_options: argument --direct_num_workers: invalid int",
        ),
        (
            "DirectRunner",
            ["direct_running_mode=fast"],
            "beam_options: argument --direct_running_mode: invalid",
        ),
        ("DirectRunner", ["direct_workers=2"], "beam_options: direct_workers is no option of Beam's"),
    ],
)
def test_options_that_beam_does_not_take_are_refused(runner, options, message):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    with pytest.raises(UserError, match=message) as refused:
        check_workers(runner, options)
    assert "\n" not in str(refused.value)


def test_options_of_a_cluster_are_passed_on():
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    workers = check_workers("FlinkRunner", ["flink_master=host:8081", "of_the_cluster=4"])
    assert workers == Workers("FlinkRunner", ("--flink_master=host:8081", "--of_the_cluster=4"))


def _film(item):
    name, first, count = item
    for index in range(first, first + count):
        yield {"image": np.full((8, 8, 3), index, np.uint8), "video": name, "index": index}


def _document(number):
    tokens, lengths = np.arange(number + 1, dtype=np.int32), np.asarray([number + 1], np.int32)
    yield datasets.record_of(
        datasets.Document(("text",), tokens, lengths, np.asarray([False]), ("text",), number)
    )


def _page(number):
    images = np.full((number % 3, 8, 8, 3), number, np.uint8)
    one = interleaved_records.PageRecord(
        name=f"pages.jsonl:{number}",
        tokens=np.arange(number + 1, dtype=np.int32),
        lengths=np.asarray([number + 1], np.int32),
        learned=np.asarray([True]),
        images=images,
        positions=np.zeros(len(images), np.int32),
    )
    yield interleaved_records.record_of(one)


def _fail(number):
    raise ValueError(f"no record {number}")


def _write_all(folder, workers):
    """Each of the four builders, two splits, several items, some with several records."""
    films = [("a.mp4", 0, 5), ("b.mp4", 2, 7), ("c.mp4", 0, 1)]
    frames = Recipe(films, _film, [count for *_, count in films])
    datasets.write_frames(folder, {"train": frames, "heldout": frames}, resolution=8, workers=workers)
    documents = {"train": Recipe(range(41), _document), "heldout": Recipe(range(1), _document)}
    datasets.write_documents(folder, "text", documents, workers=workers)
    pages = {"train": Recipe(range(9), _page)}
    interleaved_records.write_pages(folder, "pages", pages, resolution=8, workers=workers)
    samples = [task_records.Record(str(at), str(at), source="a", target="b" * at) for at in range(13)]
    task_records.write_task(folder, "copy", {"train": samples, "heldout": samples[:2]}, workers=workers)


def test_every_builder_writes_the_same_files_on_beam(tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    monkeypatch.setattr(shard_utils.ShardConfig, "min_shard_size", 300)
    _write_all(tmp_path / "one", None)
    _write_all(tmp_path / "beam", check_workers("DirectRunner"))
    found = contents(tmp_path / "one")
    assert found == contents(tmp_path / "beam")
    assert sum("frames-train.array_record" in name for name in found) > 2, "several shards"


def test_a_recipe_that_fails_on_beam_is_one_line_and_leaves_nothing(tmp_path):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    with pytest.raises(UserError, match="beam_runner: DirectRunner failed .*no record 0.*again") as failed:
        datasets.write_documents(
            tmp_path, "text", {"train": Recipe([0], _fail)}, workers=Workers("DirectRunner")
        )
    assert "\n" not in str(failed.value)
    assert not [path for path in (tmp_path / "documents").rglob("*") if path.is_file()]


def test_with_a_worker_all_others_end():
    """They, and what they have started, hold the pipes open that are read to their end here."""
    script = """
import subprocess, threading
from lwm.data.workers import Workers

def run():
    raise RuntimeError("Worker subprocess exited with return code 137")

others = [subprocess.Popen("sleep 600; true", shell=True) for _ in range(2)]
with Workers("DirectRunner").answering():
    threading.Thread(target=run, name="run_worker").start()
    threading.Event().wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: beam_runner: Worker") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_pages_are_the_same_on_beam_and_broken_pictures_are_named(tmp_path):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    from PIL import Image

    (tmp_path / "in").mkdir()
    for at in range(6):
        Image.new("RGB", (9, 9), (40 * at, 0, 0)).save(tmp_path / "in" / f"{at}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    shown = [["0.png"], ["broken.png", "1.png"], [], ["2.png", "3.png"], ["broken.png"], ["4.png", "5.png"]]
    lines = [
        {"texts": [f"Page {at}."], "images": [{"path": path, "position": 1} for path in paths]}
        for at, paths in enumerate(shown)
    ]
    (tmp_path / "in" / "pages.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = [
        prepare_pages(input=str(tmp_path / "in"), output=tmp_path / name, resolution=8, workers=workers)
        for name, workers in (("one", None), ("beam", check_workers("DirectRunner")))
    ]
    assert done[0] == done[1] and contents(tmp_path / "one") == contents(tmp_path / "beam")
    assert sorted(name for name, _ in done[0]["broken"]) == [
        "pages.jsonl:2: images[0].path",
        "pages.jsonl:5: images[0].path",
    ]


@pytest.fixture(scope="module")
def many(tmp_path_factory, write_video):
    """Clips, a broken one among them, and texts: two hundred each."""
    folder, random = tmp_path_factory.mktemp("many"), np.random.default_rng(0)
    for at in range(CLIPS):
        start = random.integers(0, 200)
        frames = [np.full((48, 64, 3), start + step, np.uint8) for step in range(20 + at % 7)]
        write_video(folder / f"{at:03d}.mp4", frames)
        words = random.choice(["sea", "wind", "stone", "light", "seven", "Ahab"], 50 + 5 * at)
        (folder / f"{at:03d}.txt").write_text(" ".join(words))
    (folder / "broken.mp4").write_bytes(b"no film" * 99)
    return folder


def _command(input, output, *flags):
    own = ["--tokenizer=train", "--vocab_size=300", "--resolution=32", "--fps=0", "--views=2"]
    return [sys.executable, "-m", "lwm.prepare", f"--input={input}", f"--output={output}", *own, *flags]


def _prepare(*arguments):
    done = subprocess.run(_command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    return done


def _kill_a_worker(process, under_way):
    """Kills one of the workers of a `prepare` as soon as `under_way()`, and waits for its end and theirs."""
    while not (under_way() and (workers := _workers_of(process))):
        assert process.poll() is None, "it ended before a worker was killed"
        time.sleep(0.01)  # only looks again
    workers[0].kill()
    process.wait(timeout=300)
    assert not psutil.wait_procs(workers, timeout=300)[1], "the others end as well"


def _workers_of(process):
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            command = child.cmdline()
        except psutil.Error:
            continue  # it has just ended
        if "apache_beam.runners.worker.sdk_worker_main" in command:
            found.append(child)
    return found


@pytest.fixture(scope="module")
def by_one(many, tmp_path_factory):
    """`many` as one process prepares it, and what that said on stdout."""
    output = tmp_path_factory.mktemp("by_one") / "data"
    return output, _prepare(many, output).stdout


@pytest.mark.slow
def test_two_workers_prepare_what_one_process_does(many, by_one, tmp_path):
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    one, said = by_one
    done = _prepare(many, tmp_path / "data", *ON_TWO)
    assert contents(tmp_path / "data") == contents(one)
    assert done.stdout == said.replace(str(one), str(tmp_path / "data"))
    manifest = load_manifest(one)
    assert sum(counts["documents"] for counts in manifest["sources"]["text"].values()) == TEXTS
    assert [name for name, _ in manifest["broken"]] == ["broken.mp4"]


@pytest.mark.slow
def test_workers_that_are_killed_lose_nothing(many, by_one, tmp_path):
    """One while films are decoded, then one while documents are written: each time the run ends in one line,
    nothing stands half-made under its final name, and the same command goes on from there."""
    pytest.importorskip("apache_beam", reason="needs the extra beam")
    output = tmp_path / "data"
    spool = output / "partial" / "frames"
    stages = {
        "frames": lambda: spool.exists() and len(list(spool.glob("*.raw"))) >= 20,
        "documents": lambda: list(output.glob("documents/text/incomplete.*")),
    }
    for stage, under_way in stages.items():
        with (tmp_path / "said").open("w") as said:
            command = _command(many, output, *ON_TWO)
            process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)
            _kill_a_worker(process, under_way)
        assert process.returncode == 1
        said = (tmp_path / "said").read_text().splitlines()
        (line,) = [line for line in said if line.startswith("error: ")]
        assert line.startswith("error: beam_runner: Worker subprocess exited with return code 137; what is")
        assert line.endswith("run the same command again")
        assert not (output / "data.json").exists()
        assert not list(output.glob(f"{stage}/**/1.0.0")), f"{stage} are written whole or not at all"
        if stage == "frames":
            assert 20 <= len(list(spool.glob("*.raw"))) < 2 * CLIPS, "it was killed midway"
    _prepare(many, output, *ON_TWO)
    assert contents(output) == contents(by_one[0])
