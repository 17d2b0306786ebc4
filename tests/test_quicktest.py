"""Every config runs from end to end as a quicktest, by the command in its header, on data made here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import needle_corpus
from lwm.data.preparation import prepare

ROOT = Path(__file__).resolve().parent.parent
CODES, SIDE = 512, 64  # of the tiny VQGAN
RUNS = {
    "vqgan.py:quicktest": 1,
    "quickstart.py:vqgan,quicktest": 1,
    "quickstart.py:quicktest": 3,
    "lwm_text.py:quicktest": 5,
    "lwm_vision.py:quicktest": 5,
    "needle_miniature.py:quicktest": 5,
    "context_extension.py:none,quicktest": 1,
    "context_extension.py:direct,quicktest": 1,
    "packing_ablation.py:weights,quicktest": 1,
    "smollm2_extension.py:quicktest": 2,
    "clip_questions.py:quicktest": 1,
    "clip_questions.py:sampled,quicktest": 1,
    "lv_xattn_families.py:flamingo_9b,quicktest": 1,
}
# Those that run on two devices, not eight.
TWO = "needle_miniature", "context_extension", "packing_ablation", "smollm2_extension", "clip_questions"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with the sources of the quickstart: pictures stand for video, a table for the VQGAN."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, lines = np.random.default_rng(0), []
    for index in range(48):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
        split = "heldout" if index % 4 == 0 else "train"
        line = {"image": f"{index}.png", "caption": f"picture {index}", "source": "video", "split": split}
        text = {"text": " ".join(map(str, rng.integers(0, 999, 1000))), "split": split}
        lines += [line, text, *(text | {"source": source} for source in needle_corpus.SOURCES)]
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path_factory.mktemp("prepared") / "data"

    def encode(frames):
        cells = frames.reshape(len(frames), 8, 8, 8, 8, 3).astype(int).sum(axis=(2, 4, 5))
        return cells.reshape(len(frames), 64) % CODES

    prepare(
        input=str(folder), output=output, tokenizer="bytes", resolution=SIDE, vqgan="a table",
        load_encoder=lambda workdir: (encode, CODES),
    )  # fmt: skip
    return output


@pytest.mark.slow
@pytest.mark.parametrize("config", RUNS)
def test_config_runs_as_a_quicktest(config, data, noise_videos, tmp_path):
    """All stages, finite losses, and nothing left to do when the command is given again."""
    if config.startswith(("clip_questions", "lv_xattn_families")):
        data = noise_videos(16, train=128, heldout=32)
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "lwm.train", f"--config=experiments/{config}", f"--workdir={workdir}"]
    devices = 2 if config.startswith(TWO) else 8
    command += [f"--data={data}"] + [f"--cpu_devices={devices}"] * ("vqgan" not in config)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert len({row["stage"] for row in rows}) == RUNS[config]
    assert all(np.isfinite(row["loss"]) for row in rows)
    before = (workdir / "metrics.jsonl").read_bytes()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_the_quickstart_trains_on_two_and_four_hosts_as_on_one(data, tmp_path):
    """The same rows, counted in tokens and step by step, and the same losses but for the order of sums."""
    flags = ["-m", "lwm.train", "--config=experiments/quickstart.py:quicktest", f"--data={data}"]
    flags += ["--config.log_every=1"]
    runs = {}
    for hosts in (1, 2, 4):
        workdir = tmp_path / f"hosts_{hosts}"
        pod = [ROOT / "launch" / "local_pod.sh", str(hosts), str(8 // hosts), "--"]
        env = os.environ | {"LOCAL_POD_LOGS": str(tmp_path / f"logs_{hosts}")}
        command = [*pod, sys.executable, *flags, f"--workdir={workdir}"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        runs[hosts] = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for hosts in (2, 4):
        assert len(runs[hosts]) == len(runs[1]) == 6
        for own, one in zip(runs[hosts], runs[1], strict=True):
            exact = ("stage", "step", "tokens", "text_tokens", "vision_tokens")
            assert [own[name] for name in exact] == [one[name] for name in exact]
            np.testing.assert_allclose(own["loss"], one["loss"], rtol=1e-5)
