"""Everything that a config alone can have wrong, found at once: no JAX is imported, nothing is made.

Devices, data and the workdir are looked at after it, by `plan` and `workdir`, still before anything is
compiled or written.
"""

import contextlib
from typing import Any

from lwm.errors import refuse
from lwm.limits import Unread
from lwm.training.experiment import Experiment, read_experiment
from lwm.training.model_block import read_model
from lwm.training.suitability import unsuitable


def validate(config: dict[str, Any]) -> Experiment:
    """Reads a whole config, with the model and each of its stages, and what they are to each other.

    Raises:
      UserError: with a line for each field that is unknown, missing, of the wrong type, out of range or at
        odds with others: its path, its value and the fix.
    """
    experiment, lines = read_experiment(config)
    with contextlib.suppress(Unread):
        model = experiment.model
        for stage in experiment.stages.values():
            read, own = read_model(model, vars(stage))
            lines += own
            lines += unsuitable(stage, read) if read is not None else []
    refuse(lines)
    return experiment
