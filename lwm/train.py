"""python -m lwm.train: trains the model of a config through its stages.

    python -m lwm.train --config=experiments/quickstart.py:quicktest --workdir=runs/quicktest --cpu_devices=8
    python -m lwm.train --config=experiments/lwm_text.py --workdir=gs://BUCKET/lwm_text --data=gs://BUCKET/books

Any field of the config can be set by --config.FIELD=VALUE. The same command goes on where it was stopped;
with --resume=must, for a scheduler that starts it again, it never begins anew.
"""

import sys

from absl import flags

from lwm.config_flag import define_config, parsing_errors, read_config
from lwm.errors import UserError
from lwm.launcher import launch, start_devices

CONFIG = define_config()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics.jsonl, config.json.")
DATA = flags.DEFINE_string(
    "data", None, "Data folder made by python -m lwm.prepare; the same as --config.data.path."
)
RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never", "must"],
    "auto: begins a new workdir, goes on in one that holds a run; never: only begins; must: only goes on.",
)
STOP_AFTER = flags.DEFINE_string("stop_after", "", "Name of the last stage to run (all of them if empty).")


def main() -> None:
    config = _config()
    if not WORKDIR.value:
        raise UserError("--workdir: '' is no folder; give one for checkpoints and metrics")
    from lwm.training.validation import validate

    experiment = validate(config)
    start_devices()
    import dataclasses

    from lwm.systems import build_model
    from lwm.training.loop import train

    ended_by = train(
        experiment,
        WORKDIR.value,
        build_model=lambda stage: build_model(experiment.model, dataclasses.asdict(stage)),
        resume=RESUME.value,
        stop_after=STOP_AFTER.value,
    )
    if ended_by is not None:
        sys.exit(128 + ended_by)


def _config() -> dict:
    """The config as nested dicts, with --data in its place."""
    config = read_config(CONFIG)
    if DATA.value is not None and isinstance(config.setdefault("data", {}), dict):
        config["data"]["path"] = DATA.value
    return config


if __name__ == "__main__":
    with parsing_errors():
        launch(main)
