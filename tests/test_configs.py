"""Every config as it is and as a quicktest; the ten stages of the paper by value and by shape."""

import dataclasses
import functools
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from lwm.models.sizes import count_parameters
from lwm.parallel import sharding
from lwm.parallel.mesh import AXES
from lwm.systems import build_model
from lwm.training import inputs
from lwm.training.experiment import build_experiment
from lwm.training.optimizers import make_optimizer
from lwm.training.stages import resolve_mesh

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "experiments").glob("*.py"))
CONFIGS = {path.name: path for path in FILES if "def get_config" in path.read_text()}
PARTS = [*((name, "") for name in CONFIGS), ("quickstart.py", "vqgan"), ("text_to_image.py", "vqgan")]
PARTS += [("context_extension.py", arm) for arm in ("none", "staged", "direct")]
PARTS += [("packing_ablation.py", arm) for arm in ("naive", "mask", "weights")]
PARTS += [("clip_questions.py", "sampled"), ("multimodel.py", "few_parsing_300_images")]
PARTS += [("lv_xattn_families.py", size) for size in ("owl3_7b", "flamingo_9b")]
CHIPS = {"lwm_text.py": 256, "lwm_vision.py": 512, "lv_xattn_families.py": 64}
# Miniatures run on two virtual devices, one for each core; so do their quicktests.
CHIPS |= dict.fromkeys(("needle_miniature.py", "context_extension.py", "packing_ablation.py"), 2)
CHIPS |= dict.fromkeys(("text_to_image.py", "smollm2_extension.py", "clip_questions.py"), 2)
CHIPS |= dict.fromkeys(("dreamllm.py", "dreamllm_miniature.py"), 2)

# Tables 11 and 13 of 2402.08268: context, theta, tokens of a batch (in M), steps, first and last
# learning rate, warm-up, tensor, seq, and the total in billions of tokens.
PAPER = {
    "text_32k": (2**15, 1e6, 4, 1200, 4e-5, 4e-5, 100, 4, 1, 4.8),
    "text_128k": (2**17, 1e7, 4, 3000, 4e-5, 4e-5, 200, 8, 1, 12),
    "text_256k": (2**18, 1e7, 4, 3000, 4e-5, 4e-5, 200, 16, 1, 12),
    "text_512k": (2**19, 2.5e7, 4, 720, 4e-5, 4e-5, 50, 16, 2, 3),
    "text_1m": (2**20, 5e7, 4, 450, 4e-5, 4e-5, 25, 16, 4, 1.8),
    "vision_1k": (2**10, 5e7, 8, 45000, 6e-4, 6e-5, 1000, 1, 1, 363),
    "vision_8k": (2**13, 5e7, 8, 14000, 6e-4, 6e-5, 500, 1, 1, 107),
    "chat_32k": (2**15, 5e7, 8, 1200, 8e-5, 8e-5, 100, 4, 1, 10),
    "chat_128k": (2**17, 5e7, 8, 450, 8e-5, 8e-5, 50, 8, 1, 3.5),
    "chat_1m": (2**20, 5e7, 8, 50, 8e-5, 8e-5, 5, 16, 4, 0.4),
}


@pytest.fixture(autouse=True)
def from_the_root(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def get_config(name, argument=None):
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), CONFIGS[name])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def experiment_of(name, argument=None):
    return build_experiment(get_config(name, argument).to_dict())


def paper_stages():
    return [("lwm_text.py" if stage.startswith("text") else "lwm_vision.py", stage) for stage in PAPER]


@pytest.mark.parametrize("quick", [False, True], ids=["as_it_is", "quicktest"])
@pytest.mark.parametrize(("name", "part"), PARTS)
def test_config_passes_every_check_and_builds_its_models(name, part, quick):
    argument = ",".join(filter(None, [part, "quicktest" if quick else ""]))
    experiment = experiment_of(name, argument)
    chips = min(CHIPS.get(name, 8), 8) if quick else CHIPS.get(name, 8)
    for stage in experiment.stages.values():
        model = build_model(experiment.model, dataclasses.asdict(stage))
        batch = inputs.batch_shapes(stage, model.config)
        params = jax.eval_shape(functools.partial(model.init, batch=batch), jax.random.key(0))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 1000
        if not stage.of_images:
            assert math.prod(resolve_mesh(stage, chips).values()) == chips
        if quick:
            assert stage.steps <= 10


@pytest.mark.parametrize(("name", "stage"), paper_stages())
def test_stage_has_the_values_of_the_paper(name, stage):
    experiment = experiment_of(name)
    found = experiment.stages[stage]
    context, theta, tokens, steps, first, last, warmup, tensor, seq, total = PAPER[stage]
    assert (found.context_length, found.rope_theta, found.batch_tokens) == (context, theta, tokens * 2**20)
    assert (found.steps, found.warmup_steps) == (steps, warmup)
    assert (found.learning_rate, found.end_learning_rate) == (first, last)
    assert dataclasses.asdict(found.mesh) == {"data": 1, "fsdp": -1, "tensor": tensor, "seq": seq}
    assert found.steps * tokens * 1e6 == pytest.approx(total * 1e9, rel=0.15)
    assert sum(found.mixture.values()) == pytest.approx(1)
    assert experiment.model["size"] == "7b" and experiment.model["dtype"] == "bfloat16"
    assert dataclasses.astuple(experiment.optimizer) == (0.9, 0.95, 1e-8, 0.1, 1.0)


def test_stages_come_in_the_order_of_the_paper_and_mix_as_it_says():
    text, vision = experiment_of("lwm_text.py").stages, experiment_of("lwm_vision.py").stages
    assert [*text, *vision] == list(PAPER)
    assert vision["vision_1k"].mixture["text"] == vision["vision_8k"].mixture["text"] == 0.16
    assert set(vision["chat_1m"].mixture.values()) == {0.25}
    assert all((s.text_weight, s.vision_weight) == (0.5, 0.5) for s in vision.values())
    assert [s.swap_order for s in vision.values()] == [True, True, False, False, False]


def shapes_of_7b(name, stage):
    """(stage, mesh, model, batch, parameters) of a paper's stage on the mesh of the paper; shapes only."""
    experiment = experiment_of(name)
    found = experiment.stages[stage]
    sizes = resolve_mesh(found, CHIPS[name])
    mesh = AbstractMesh(tuple(sizes[axis] for axis in AXES), AXES, axis_types=(AxisType.Auto,) * len(AXES))
    model, batch = build_model(experiment.model, dataclasses.asdict(found)), inputs.batch_shapes(found)
    with jax.sharding.use_abstract_mesh(mesh):
        params = jax.eval_shape(lambda key: model.init(key, batch), jax.random.key(0))
    return found, mesh, model, batch, params


@pytest.mark.parametrize(("name", "stage"), paper_stages())
def test_7b_stage_lies_on_its_mesh_by_the_rules(name, stage):
    """State and batch of 6.7 billion parameters."""
    found, mesh, model, batch, params = shapes_of_7b(name, stage)
    optimizer = make_optimizer(learning_rate=found.learning_rate, steps=found.steps)
    moments = jax.eval_shape(optimizer.init, params)
    layout = sharding.shardings(model.PARTITION_RULES, (params, moments), mesh)
    sharding.batch_shardings(batch, mesh)

    count = count_parameters(model.config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count["total"]
    assert count["language"] == 6_738_415_616
    assert count["vision"] == (0 if stage.startswith("text") else 2 * 8448 * 4096)
    leaves = zip(jax.tree.leaves((params, moments)), jax.tree.leaves(layout), strict=True)
    held = sum(math.prod(own.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, own in leaves)
    assert held < 1.05 * 12 * count["total"] / CHIPS[name], "parameters or moments lie on every chip"
    parts = f"{count['language']:,} parameters and {count['vision']:,} of vision"
    print(f"{stage}: {parts}, {dict(mesh.shape)}, {held / 1e9:.2f} GB a chip")


def longest_first(stages):
    """The longest of text every day, the others with the slow tests: tracing takes ten seconds."""
    return [pytest.param(*pair, marks=() if pair[1] == "text_1m" else pytest.mark.slow) for pair in stages]


@pytest.mark.parametrize(("name", "stage"), longest_first(paper_stages()))
def test_7b_stage_has_a_loss_and_gradients(name, stage):
    _, mesh, model, batch, params = shapes_of_7b(name, stage)
    with jax.sharding.use_abstract_mesh(mesh):
        (loss, metrics), gradients = jax.eval_shape(
            jax.value_and_grad(model.loss, has_aux=True), params, batch, jax.random.key(0)
        )
    assert loss.shape == () and {metric.dtype for metric in metrics.values()} == {jnp.dtype("float32")}
    assert jax.tree.map(lambda leaf: leaf.shape, gradients) == jax.tree.map(lambda leaf: leaf.shape, params)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("nonsense", "nonsense"), ("quicktest=perhaps", "perhaps"), ("quicktest,quicktest", "given twice")],
)
def test_config_argument_that_is_not_known_is_named(argument, message):
    with pytest.raises(ValueError, match=message):
        get_config("lwm_text.py", argument)


def test_config_arguments_reach_the_config():
    assert get_config("lwm_vision.py", "init=elsewhere").init == "elsewhere"
    assert get_config("lwm_vision.py", "init=elsewhere,quicktest").model.size == "debug"
    assert get_config("quickstart.py", "vqgan").model.name == "vqgan"
    with pytest.raises(ValueError, match="part='nonsense'.*vqgan, lwm"):
        get_config("quickstart.py", "nonsense")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        ("experiments/lwm_text.py:nonsense", ["nonsense"]),
        (
            "experiments/lwm_text.py --config.sead=1 --config.optimizer.b1=2.0 --config.model.heads=7 "
            "--config.stages.text_32k.steps=0 --config.stages.text_1m.rope_theta=1e6",
            ["sead", "stages.text_32k.steps", "optimizer.b1", "stages.text_1m.rope_theta", "model.kv_heads"]
            + ["stages.text_32k.mesh.tensor", "stages.text_128k.mesh.tensor", "stages.text_256k.mesh.tensor"]
            + ["stages.text_512k.mesh.tensor", "stages.text_1m.mesh.tensor"],
        ),
    ],
)
def test_bad_config_ends_in_a_line_for_each_mistake_and_exit_code_2(flags, names):
    command = [sys.executable, "-m", "lwm.train", *f"--config={flags}".split(), "--workdir=never_made"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, len(names)), done.stderr
    for line, name in zip(lines, names, strict=True):
        assert line.startswith("error: ") and name in line and "; " in line
    assert not (ROOT / "never_made").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "get_config = dict",
            "--config: get_config returns a dict; let it return an ml_collections.ConfigDict",
        ),
        (
            "from ml_collections import ConfigDict, config_dict\n"
            "get_config = lambda: ConfigDict({'seed': config_dict.required_placeholder(int)})",
            "config.seed: expected int, found None",
        ),
    ],
)
def test_a_file_that_gives_no_whole_config(tmp_path, source, message):
    (tmp_path / "config.py").write_text(source)
    command = [sys.executable, "-m", "lwm.train", f"--config={tmp_path}/config.py", f"--workdir={tmp_path}/w"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists()
