"""python -m lwm.summarize: one HTML page of what a run did and learned, from its workdir.

    python -m lwm.summarize --workdir=runs/quickstart/lwm --vqgan=runs/quickstart/vqgan

The page, WORKDIR/summary.html, holds its pictures and needs no network.
"""

from absl import flags

from lwm.launcher import launch

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of the run.", required=True)
_VQGAN = flags.DEFINE_string("vqgan", None, "Workdir of the VQGAN that made the codes of the run, if any.")
_LOG = flags.DEFINE_string("log", None, "Commands that led here, as launch/quickstart.sh writes them.")


def about() -> list[tuple[str, str]]:
    """The commit of the code (with + if it was changed since), the machine and the versions."""
    import os
    import platform
    import subprocess
    from importlib.metadata import version
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = f"lwm {version('lwm')}"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    return [
        ("commit", commit),
        ("machine", machine),
        ("Python", platform.python_version()),
        ("JAX", version("jax")),
    ]


def parameters(workdir: str) -> list[tuple[str, str]]:
    """How many the newest checkpoint holds; nothing before the first one."""
    import math

    import jax

    from lwm.evaluation.charts import count
    from lwm.training.checkpoints import latest_stage, latest_step, saved_params, stage_folder
    from lwm.training.workdir import read_config

    names = list(read_config(workdir)["stages"])
    last = latest_stage(workdir, names)
    if last is None:
        return []
    folder = stage_folder(workdir, names.index(last), last)
    shapes = saved_params(folder, latest_step(folder))
    return [("parameters", count(sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))))]


def main():
    from etils import epath

    from lwm.data.manifest import write_whole
    from lwm.evaluation.page import build

    facts = [*parameters(_WORKDIR.value), *about()]
    page = build(_WORKDIR.value, vqgan=_VQGAN.value, log=_LOG.value, about=facts)
    path = epath.Path(_WORKDIR.value) / "summary.html"
    write_whole(path, page.encode())
    print(path)


if __name__ == "__main__":
    launch(main)
