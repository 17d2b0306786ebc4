"""What a run was made of, each time it was started: WORKDIR/starts/<time in UTC>.json.

Beside the config, which config.json has too: the command, the models of the stages field by field, the commit
of this code, the versions of the libraries, and the devices. A run that goes on on other machines, or with
other code, leaves another file.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from lwm.training.workdir import write_json

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_LIBRARIES = (
    *("lwm", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("grain", "tensorflow-datasets", "array-record", "ml-collections"),
)


def write_start(
    workdir: epath.PathLike, config: dict, models: Mapping[str, Any], devices: Sequence[jax.Device]
) -> epath.Path:
    """Writes the file of this start, whole or not at all, and returns it. One process of a run is to call it.

    Args:
      config: an `Experiment` as nested dicts.
      models: {stage: config of its model}, of the stages that are left.
      devices: of all processes.
    """
    now = datetime.datetime.now(datetime.UTC)
    path = epath.Path(workdir) / "starts" / f"{now:%Y%m%dT%H%M%S.%fZ}.json"
    row = {"time": now.isoformat(), "command": sys.argv, "python": platform.python_version()}
    row |= {"commit": commit(), "versions": library_versions(), "host": platform.node()}
    row |= {"processes": jax.process_count(), "devices": [_about(device) for device in devices]}
    row |= {"config": config}
    write_json(path, row | {"models": {name: dataclasses.asdict(model) for name, model in models.items()}})
    return path


def commit(root: pathlib.Path = _ROOT) -> str | None:
    """The commit of a checkout, with "-dirty" if files that it knows were changed; None outside of one."""
    if not (root / ".git").exists():
        return None
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def library_versions() -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def code_digest(package: pathlib.Path = _ROOT / "lwm") -> str:
    """Of the files of this package, with or without a commit."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _about(device: jax.Device) -> dict[str, Any]:
    about = {"id": device.id, "process": device.process_index}
    return about | {"platform": device.platform, "kind": device.device_kind}
