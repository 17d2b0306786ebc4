"""The verb, and the whole road: files, data folder, the real transformer, two stages, stops and restarts."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lwm.data.preparation import prepare
from lwm.systems import build_model
from lwm.training import inputs
from lwm.training.checkpoints import load_params
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from lwm.training.metrics import read_rows

ROOT = Path(__file__).resolve().parent.parent
CODES, SIDE = 16, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder of texts and of captioned pictures, four codes each."""
    folder = tmp_path_factory.mktemp("corpus")
    rng, lines = np.random.default_rng(0), []
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        split = "heldout" if index % 4 == 0 else "train"
        lines.append({"image": f"{index}.png", "caption": f"picture {index}", "split": split})
        lines.append({"text": " ".join(map(str, rng.integers(0, 99, 60))), "split": split})
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = tmp_path_factory.mktemp("prepared") / "data"

    def encode(frames):
        return (
            frames.reshape(len(frames), 2, 4, 2, 4, 3).astype(int).sum(axis=(2, 4, 5)).reshape(-1, 4) % CODES
        )

    prepare(
        input=str(folder), output=output, tokenizer="bytes", resolution=SIDE, vqgan="a table",
        load_encoder=lambda workdir: (encode, CODES),
    )  # fmt: skip
    return output


def config_of(data, **stages):
    stage = dict(batch_tokens=512, steps=3, learning_rate=1e-2, mixture={"text": 0.5, "image": 0.5})
    return {
        "experiment": "small",
        "model": {"name": "lwm", "size": "debug", "vision_vocab_size": CODES + 2, "remat": "none"},
        "data": {"path": str(data)},
        "stages": {name: stage | block for name, block in stages.items()},
        "log_every": 1,
    }


STAGES = {
    "short": dict(context_length=64, mesh={"fsdp": 4, "seq": 2}, checkpoint_every=2, eval_every=3),
    "long": dict(context_length=128, rope_theta=1e5, steps=2, mesh={"data": 2, "seq": 4}, accumulate=2),
}


class Cut(Exception):
    pass


def run(config, workdir, cut=None):
    """Trains for real; the stage `cut[0]` loses its power when it asks for batch `cut[1]`."""
    experiment = build_experiment(config)

    def open_batches(stage, *arguments, split, **settings):
        batches = inputs.open_batches(stage, *arguments, split=split, **settings)
        if split == "train" and cut and stage.name == cut[0]:
            read = type(batches).__next__

            class Breaking(type(batches)):
                def __next__(self):
                    if self.get_state()["step"] == cut[1]:
                        raise Cut
                    return read(self)

            batches.__class__ = Breaking
        return batches

    return train(
        experiment,
        workdir,
        build_model=lambda stage: build_model(experiment.model, vars(stage)),
        open_batches=open_batches,
    )


@pytest.mark.slow  # tests/training/test_loop.py cuts a smaller model every day
def test_stopped_anywhere_the_result_is_the_same_bit_for_bit(data, tmp_path):
    config = config_of(data, **STAGES)
    assert run(config, tmp_path / "once") is None
    for cut in (("short", 2), ("long", 0)):
        with pytest.raises(Cut):
            run(config, tmp_path / "cut", cut)
    assert run(config, tmp_path / "cut") is None
    for stage in STAGES:
        once, cut = (load_params(tmp_path / name, stage) for name in ("once", "cut"))
        jax.tree.map(np.testing.assert_array_equal, once[2], cut[2])
        positions = [
            next((tmp_path / name / "stages").glob(f"*_{stage}/*/position/metadata")).read_text()
            for name in ("once", "cut")
        ]
        assert (
            positions[0] == positions[1]
            and json.loads(positions[0])["step"] == config["stages"][stage]["steps"]
        )
    rows = [
        [
            {name: value for name, value in row.items() if "second" not in name}
            for row in read_rows(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("once", "cut")
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0] if row["kind"] == "train"] == [1, 2, 3, 1, 2]
    first, last = rows[0][0], rows[0][-1]
    assert last["loss"] < first["loss"] and first["vision_tokens"] > 0 and first["text_tokens"] > 0


def verb(*arguments, **settings):
    return subprocess.Popen(
        [sys.executable, "-m", "lwm.train", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config_file(tmp_path_factory, data):
    """A config in a file, as a user writes one."""
    path = tmp_path_factory.mktemp("configs") / "small.py"
    one = dict(context_length=64, mesh={"data": 2}, steps=400, checkpoint_every=0)
    config = repr(config_of(data, only=one))
    path.write_text(
        f"import ml_collections\n\ndef get_config():\n    return ml_collections.ConfigDict({config})\n"
    )
    return path


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "error: --config: None is no file; give one"),
        (
            ["--config=none.py"],
            "error: --config: [Errno 2] No such file or directory: 'none.py'; give the path",
        ),
        (["--config=README.md"], "error: --config: SyntaxError"),
        (
            ["--config={config}", "--config.stages.only.stepz=5"],
            "stepz: there is no such field (value 5); did you mean",
        ),
        (
            ["--config={config}", "--config.stages.onyl.steps=5"],
            "--config.stages.onyl.steps=5: the config has no 'onyl'; Did you mean",
        ),
        (
            ["--config={config}", "--config.stages.only.steps=abc"],
            "--config.stages.only.steps=abc: invalid literal",
        ),
        (
            ["--config={config}", "--config.stages.only.batch_tokens=100"],
            "batch_tokens: 100 is not a multiple of",
        ),
        (["--config={config}", "--workdir="], "error: --workdir: '' is no folder"),
        (["--config={config}", "--resume=yes"], "--resume=yes: value should be one of <auto|never|must>"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, config_file, tmp_path):
    arguments = [
        f"--workdir={tmp_path / 'w'}",
        *(argument.format(config=config_file) for argument in arguments),
    ]
    process = verb(*arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and not output
    assert message in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_help_needs_no_jax():
    code = "import sys, lwm.train; sys.exit('jax' in sys.modules or 'tensorflow_datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(config_file, data, tmp_path):
    arguments = [
        f"--config={config_file}",
        f"--workdir={tmp_path / 'w'}",
        f"--data={data}",
        "--cpu_devices=2",
    ]
    process = verb(*arguments)
    for line in process.stdout:
        if "step 20/400" in line:
            process.send_signal(signal.SIGTERM)
            break
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "stopped and saved at step" in output
    anew = verb(*arguments, "--resume=never")
    output, errors = anew.communicate(timeout=60)
    assert anew.returncode == 2 and "resume: never, but" in errors and len(errors.splitlines()) == 1
    again = verb(*arguments, "--config.log_every=100", "--resume=must")
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    steps = [row["step"] for row in read_rows(tmp_path / "w" / "metrics.jsonl")]
    assert steps == sorted(set(steps)) and steps[:20] == list(range(1, 21)) and steps[-1] == 400
    done = verb(*arguments)
    output, _ = done.communicate(timeout=60)
    assert done.returncode == 0 and "all 1 stages of small are done" in output
