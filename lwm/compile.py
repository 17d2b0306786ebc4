"""python -m lwm.compile: compiles the training step of any config for a TPU pod, without the pod.

    python -m lwm.compile --config=experiments/lwm_text.py --stage=text_1m --topology=v4:8x8x4,megacore
    python -m lwm.compile --config=experiments/lwm_text.py --stage=text_1m --topology=v5e:16x16 \\
        --mesh=seq=256 --config.stages.text_1m.batch_tokens=1048576

The compiler is the real one, in libtpu (pip install -e '.[tpu]'); nothing runs, nothing is allocated. Prints
whether the step fits, where its memory goes, its FLOPs, every collective and a bound on its time. Exit code 1
if it does not fit. Any field of the config can be set by --config.FIELD=VALUE.
"""

import dataclasses
import json
import sys

from absl import flags

from lwm.config_flag import define_config, parsing_errors, read_config
from lwm.errors import UserError
from lwm.launcher import launch

CONFIG = define_config()
STAGE = flags.DEFINE_string("stage", "", "Stage to compile; may be left out if the config has only one.")
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Pod, GENERATION:AxB[xC][,megacore]: v5e:16x16, v5p:8x8x8, v4:8x8x8,megacore, …"
)
MESH = flags.DEFINE_string("mesh", "", "Other mesh than the stage's, data=1,fsdp=4,tensor=16,seq=4.")
JSON = flags.DEFINE_bool("json", False, "Print one line of JSON instead of the table.")


def main() -> None:
    config = read_config(CONFIG)
    if not TOPOLOGY.value:
        raise UserError("--topology: '' is no pod; give one, for example --topology=v5e:16x16")
    from lwm.training.stages import choose_stage, parse_axes
    from lwm.training.validation import validate

    experiment = validate(config)
    stage = choose_stage(experiment.stages, STAGE.value)
    if MESH.value:
        stage = parse_axes(stage, MESH.value)
    from lwm.compilation.report import row, table
    from lwm.compilation.step import compile_step
    from lwm.compilation.topology import open_pod
    from lwm.systems import build_model
    from lwm.training.program import make_program

    try:
        pod = open_pod(TOPOLOGY.value)
    except ValueError as error:
        raise UserError(f"--{error}") from error

    def build(stage):
        return build_model(experiment.model, dataclasses.asdict(stage))

    result = compile_step(pod, make_program(experiment, stage, build, pod.devices))
    print(json.dumps(row(result)) if JSON.value else table(result))
    sys.exit(0 if result.fits else 1)


if __name__ == "__main__":
    with parsing_errors():
        launch(main)
