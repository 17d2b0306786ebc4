"""Who may import whom, and that importing starts no device: the rules that keep the rooms apart."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "lwm").rglob("*.py"))
VERBS = [path.stem for path in (ROOT / "lwm").glob("*.py") if "launch(main)" in path.read_text()]

# Package: what it may import beside itself and the standard library. A verb may import everything.
MAY_IMPORT = {
    "ops": "jax numpy einops",
    "parallel": "jax numpy lwm.errors",
    "models": "jax numpy einops flax lwm.errors lwm.limits lwm.ops lwm.parallel",
    "data": (
        "numpy grain tensorflow_datasets apache_beam psutil array_record etils av PIL sentencepiece "
        "tokenizers rich lwm.bounds lwm.json_text lwm.errors lwm.limits lwm.parallel.layout"
    ),
    "interop": (
        "jax numpy etils gguf tokenizers "
        "lwm.bounds lwm.json_text lwm.errors lwm.limits lwm.ops lwm.parallel lwm.models"
    ),
    "generation": "jax numpy einops PIL av lwm.errors lwm.ops lwm.parallel lwm.models",
    "evaluation": (
        "jax numpy scipy einops optax PIL jinja2 etils matplotlib sacrebleu "
        "lwm.json_text lwm.errors lwm.limits lwm.ops lwm.parallel lwm.models lwm.generation "
        "lwm.data.tokenizers lwm.data.clips"
    ),
    "training": (
        "jax numpy einops flax optax orbax etils rich grain tensorboard wandb "
        "lwm.json_text lwm.errors lwm.limits lwm.ops lwm.parallel lwm.models lwm.data lwm.generation "
        "lwm.evaluation"
    ),
}
MAY_IMPORT["scaling"] = (
    "numpy scipy PIL av lwm.errors "
    "lwm.models.sizes lwm.models.vqgan_sizes lwm.models.unet_sizes lwm.models.dream_sizes"
)
MAY_IMPORT["compilation"] = "jax lwm.errors lwm.ops lwm.parallel lwm.models lwm.training lwm.scaling"
MAY_IMPORT |= {"serving": "jax numpy etils rich lwm", "assessment": "jax numpy etils rich lwm"}
# The top-level files that are no verbs.
MAY_IMPORT |= {"bounds": "", "json_text": "etils lwm.bounds lwm.errors lwm.limits"}
MAY_IMPORT |= {"__init__": "", "errors": "", "limits": "lwm.errors", "launcher": "absl jax lwm.errors"}
MAY_IMPORT |= {"config_flag": "absl ml_collections lwm.errors", "run_flags": "absl"}
CONFIGS_MAY_IMPORT = "ml_collections experiments lwm.models.sizes"


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import of {node.module}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def strangers(path: Path, allowed: str) -> list[str]:
    parts = tuple(f"{part}." for part in allowed.split())
    return sorted(name for name in imports(path) if not f"{name}.".startswith(parts))


def room(path: Path) -> str:
    """The package a file of lwm/ stands in, or its own name at the top level."""
    return path.relative_to(ROOT / "lwm").with_suffix("").parts[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_file_imports_only_what_its_room_may(path):
    name = room(path)
    allowed = MAY_IMPORT.get(name)
    if allowed is None:
        assert path.parent == ROOT / "lwm", f"lwm/{name}/ has no row in the table of imports"
        return
    assert not strangers(path, f"{allowed} lwm.{name}")


CONFIGS = [
    path for path in sorted((ROOT / "experiments").glob("*.py")) if "def get_config(" in path.read_text()
]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configs_are_read_without_the_code_of_the_package(path, tmp_path):
    """A config may be a program as well, whose functions import what they need."""
    head = tmp_path / path.name
    tree = ast.parse(path.read_text())
    head.write_text(
        ast.unparse([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)])
    )
    assert not strangers(head, CONFIGS_MAY_IMPORT)


def test_the_rules_see_a_forbidden_import_inside_a_function(tmp_path):
    path = tmp_path / "attention.py"
    path.write_text("import math\nimport jax.numpy as jnp\ndef f():\n    from lwm.models import layers\n")
    assert strangers(path, MAY_IMPORT["ops"]) == ["lwm.models.layers"]


def test_setup_declares_everything_that_is_imported():
    distributions = importlib.metadata.packages_distributions()
    lists = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign)
    }
    extras = [
        name for extra in ("scores", "beam", "tensorboard", "wandb") for name in lists["EXTRAS"][extra]
    ]  # that it imports itself
    wanted = [*lists["CORE"], *extras]
    declared = {plain(re.match(r"[\w.-]+", text).group()) for text in wanted}
    tops = {name.split(".")[0] for path in FILES for name in imports(path)} - {"lwm"}
    undeclared = {
        top for top in tops if not declared & {plain(name) for name in distributions.get(top, [top])}
    }
    assert not undeclared


def plain(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_importing_every_module_starts_no_backend():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in FILES
        if path.parent != ROOT / "lwm" or path.stem not in VERBS
    ]
    # The number of CPU devices can be set only before the first backend starts.
    check = "jax.config.update('jax_num_cpu_devices', 3); assert len(jax.devices('cpu')) == 3"
    run(f"import importlib, jax\nfor name in {modules!r}: importlib.import_module(name)\n{check}")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_shows_its_flags_and_needs_no_jax(verb):
    out = run(
        "import runpy, sys\n"
        f"sys.argv = ['lwm.{verb}', '--help']\n"
        f"try: runpy.run_module('lwm.{verb}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit: pass\n"
        "heavy = {'jax', 'flax', 'tensorflow_datasets', 'grain', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert "--" in out and "workdir" in out + "workdir" * (verb in ("prepare", "compile"))


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
