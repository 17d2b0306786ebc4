"""One host of a pod that trains the made-up model on made-up batches: `host.py WORKDIR CONFIG`.

It says which process it is before anything else, and of each batch that it is about to read it. Wanting batch
number $CUT of a stage ends it at once, with code 3.
"""

import faulthandler
import json
import os
import sys

SAID = 1  # file descriptor


def main(workdir, config):
    faulthandler.dump_traceback_later(600, exit=True)
    os.write(SAID, f"process {os.getpid()}\n".encode())

    import conftest
    from absl import flags

    from lwm import launcher
    from lwm.training.experiment import build_experiment
    from lwm.training.loop import train
    from lwm.training.schema import build

    class Telling(conftest.Stream):
        def __next__(self):
            if self.split == "train":
                os.write(SAID, f"reads {self.stage.name} {self.index}\n".encode())
                if str(self.index) == os.environ.get("CUT"):
                    os._exit(3)
            return super().__next__()

    flags.FLAGS(sys.argv[:1])
    launcher.start_devices()
    experiment = build_experiment(json.loads(config))
    model = conftest.Bag(build(conftest.BagConfig, experiment.model, path="config.model"))
    streams = dict(manifest=conftest.MANIFEST, open_batches=Telling)
    ended_by = train(experiment, workdir, build_model=lambda stage: model, **streams)
    sys.exit(128 + ended_by if ended_by else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
