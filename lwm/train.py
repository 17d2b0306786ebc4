"""python -m lwm.train: trains the model of a config through its stages.

    python -m lwm.train --config=experiments/quickstart.py:quicktest --workdir=runs/quicktest --cpu_devices=8
    python -m lwm.train --config=experiments/lwm_text.py --workdir=gs://BUCKET/lwm_text --data=gs://BUCKET/books

Any field of the config can be set by --config.FIELD=VALUE. The same command goes on where it was stopped;
with --resume=must, for a scheduler that starts it again, it never begins anew.
`python -m lwm.train --status --workdir=…` tells where a run stands, from its files alone.
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
STATUS = flags.DEFINE_bool("status", False, "Only tell where the run in --workdir stands; needs no --config.")
PROFILE = flags.DEFINE_string(
    "profile", "", "STAGE:FIRST-LAST, steps to trace on the first host into WORKDIR/profile, for XProf."
)
BOARDS = flags.DEFINE_list(
    "boards", [], "tensorboard, wandb: boards that show the rows of metrics.jsonl as well, each by its extra."
)


def main() -> None:
    if STATUS.value:
        from lwm.training.status import status

        print("\n".join(status(_workdir())))
        return
    config, workdir = _config(), _workdir()
    from lwm.training.validation import validate

    experiment = validate(config)
    from lwm.training.profile import parse_window

    profile = parse_window(PROFILE.value, experiment)
    start_devices()
    import dataclasses

    from lwm.compilation.peak import seconds_at_peak
    from lwm.systems import build_model
    from lwm.training.loop import train

    ended_by = train(
        experiment,
        workdir,
        build_model=lambda stage: build_model(experiment.model, dataclasses.asdict(stage)),
        resume=RESUME.value,
        stop_after=STOP_AFTER.value,
        profile=profile,
        boards=BOARDS.value,
        at_peak=seconds_at_peak,
    )
    if ended_by is not None:
        sys.exit(128 + ended_by)


def _workdir() -> str:
    if not WORKDIR.value:
        raise UserError("--workdir: '' is no folder; give one for checkpoints and metrics")
    return WORKDIR.value


def _config() -> dict:
    """The config as nested dicts, with --data in its place."""
    config = read_config(CONFIG)
    if DATA.value is not None and isinstance(config.setdefault("data", {}), dict):
        config["data"]["path"] = DATA.value
    return config


if __name__ == "__main__":
    with parsing_errors():
        launch(main)
