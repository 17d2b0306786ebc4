"""The VQGAN that turns frames into the codes of LWM: the paper's size, and a tiny one for two CPU cores.

Question  How good are the codes that the language model has to read and write?
Paper     network and quantiser of "Taming Transformers" (2012.09841), in the shape that "World Model on
          Million-Length Video and Language" (2402.08268, section 4.1) takes from the release of aMUSEd.
Command   python -m lwm.train --config=experiments/vqgan.py --workdir=gs://BUCKET/vqgan \\
              --config.data.path=gs://BUCKET/pictures
          on every host, after `python -m lwm.prepare --resolution=256 …`.
Small     python -m lwm.train --config=experiments/vqgan.py:size=tiny --workdir=runs/vqgan \\
              --config.data.path=runs/quickstart/data
          64-pixel frames on two CPU cores, what the quickstart does; `:quicktest` leaves three steps of it,
          with the discriminator if the size is the paper's.
Hardware  paper: made for a TPU v4-32 or larger; tiny: two CPU cores.
Expected  paper: not run by us, for want of such a machine and of a data set. tiny: frames of the last tenth
          of four clips rebuilt 6 dB or more above their mean colour, more than half of 512 codes in use; our
          run is in experiments/README.md.

Where the numbers come from: LWM does not train its VQGAN, so only the shape is the paper's. The losses are
those of 2012.09841 without the perceptual one, whose pretrained weights are not to be had here; expect softer
detail than of the released weights. Batch, steps, rates and the weight of the discriminator are ours, after
the habits of that paper's release (a late discriminator, first moments of 0.5); none has been tuned.
"""

import ml_collections

from experiments import arguments

QUICK_STEPS = 3


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of a `size`, paper or tiny; `quicktest`: three steps at the tiny size, for a CPU."""
    chosen = arguments.parse(argument, size="paper", quicktest=False)
    if chosen.size not in PARTS:
        raise ValueError(f"config argument size={chosen.size!r}: not known; known are {', '.join(PARTS)}")
    shared = {"experiment": f"vqgan_{chosen.size}", "seed": 0, "init": "", "checkpoint": {"keep": 1}}
    config = ml_collections.ConfigDict(shared | PARTS[chosen.size])
    return shrink(config) if chosen.quicktest else config


PAPER = {
    "model": {
        "name": "vqgan",
        "size": "paper",
        "dtype": "bfloat16",
        "adversarial_weight": 0.1,
        "adversarial_start": 50_000,
        "refresh_every": 100,
    },
    "data": {"path": "data/pictures"},
    "optimizer": {"b1": 0.5, "b2": 0.9, "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0},
    "log_every": 100,
    "stages": {
        "frames": {
            "context_length": 0,
            "batch_size": 256,
            "steps": 500_000,
            "learning_rate": 1e-4,
            "end_learning_rate": 1e-5,
            "warmup_steps": 5000,
            "schedule": "cosine",
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "seq": 1},
            "eval_every": 5000,
            "checkpoint_every": 5000,
        }
    },
}

TINY = {
    "model": {"name": "vqgan", "size": "tiny"},
    "data": {"path": "runs/quickstart/data"},
    "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0},
    "log_every": 10,
    "stages": {
        "frames": {
            "context_length": 0,
            "batch_size": 32,
            "steps": 600,
            "learning_rate": 3e-3,
            "end_learning_rate": 6e-5,
            "warmup_steps": 20,
            "schedule": "cosine",
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "seq": 1},
            "eval_every": 100,
        }
    },
}

PARTS = {"paper": PAPER, "tiny": TINY}


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The tiny network on the quickstart's frames, for three steps; losses and schedule stay."""
    config.model.size = "tiny"
    config.data.path = TINY["data"]["path"]
    config.log_every = 1
    if "adversarial_start" in config.model:
        config.model.dtype = "float32"
        config.model.adversarial_start = 2
        config.model.refresh_every = 1
    for stage in config.stages.values():
        stage.batch_size = 16
        stage.steps, stage.warmup_steps = QUICK_STEPS, 1
        stage.eval_every = stage.checkpoint_every = 0
    return config
