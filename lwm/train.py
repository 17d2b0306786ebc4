"""python -m lwm.train: trains the model of a config through its stages.

    python -m lwm.train --config=experiments/quickstart.py:quicktest --workdir=runs/quicktest --cpu_devices=8
    python -m lwm.train --config=experiments/lwm_text.py --workdir=gs://BUCKET/lwm_text --data=gs://BUCKET/books

Any field of the config can be set by --config.FIELD=VALUE. The same command goes on where it was stopped.
"""

import sys

from absl import flags
from ml_collections import config_flags

from lwm.errors import UserError
from lwm.launcher import launch, start_devices

# Unlocked, because a config need not write down the fields that keep their defaults; `schema` knows them all.
CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment, FILE.py or FILE.py:ARGUMENT, see experiments/.",
    lock_config=False,
    accept_new_attributes=True,
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run: checkpoints, metrics.jsonl, config.json.")
DATA = flags.DEFINE_string(
    "data", None, "Data folder made by python -m lwm.prepare; the same as --config.data.path."
)
STOP_AFTER = flags.DEFINE_string("stop_after", "", "Name of the last stage to run (all of them if empty).")


def main() -> None:
    config = _config()
    if not WORKDIR.value:
        raise UserError("--workdir: '' is no folder; give one for checkpoints and metrics")
    from lwm.training.experiment import build_experiment

    experiment = build_experiment(config)
    start_devices()
    import dataclasses

    from lwm.systems import build_model
    from lwm.training.loop import train

    ended_by = train(
        experiment,
        WORKDIR.value,
        build_model=lambda stage: build_model(experiment.model, dataclasses.asdict(stage)),
        stop_after=STOP_AFTER.value,
    )
    if ended_by is not None:
        sys.exit(128 + ended_by)


def _config() -> dict:
    """The config as nested dicts, with --data in its place."""
    if CONFIG.value is None:
        raise UserError("--config: None is no file; give one, for example --config=experiments/quickstart.py")
    try:
        config = CONFIG.value.to_dict()
    except OSError as error:
        raise UserError(
            f"--config: {_last_line(error)}; give the path of a Python file with get_config"
        ) from error
    if DATA.value is not None:
        config["data"] = {**config.get("data", {}), "path": DATA.value}
    return config


def _last_line(error: BaseException) -> str:
    return " ".join(str(error).strip().splitlines()[-1:]).strip()


def _unparsed(error: Exception) -> str:
    """What went wrong in parsing the flags, when the config file runs and its overrides are looked up."""
    if isinstance(error, KeyError) and error.args:
        name, *hint = str(error.args[0]).splitlines()
        for argument in sys.argv[1:]:
            if argument.startswith("--config.") and name.strip("'") in argument.partition("=")[0].split("."):
                return f"{argument}: the config has no {name}; {' '.join(hint) or 'correct the name'}"
    return f"--config: {type(error).__name__}: {_last_line(error)}; correct the file"


if __name__ == "__main__":
    try:
        launch(main)
    except Exception as error:
        if flags.FLAGS.is_parsed():
            raise
        print(f"error: {_unparsed(error)}", file=sys.stderr)
        sys.exit(2)
