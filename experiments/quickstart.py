"""The quickstart: a tiny VQGAN, then a tiny LWM through three stages of context, on two CPU cores.

Question  Does the whole road (real video and text, codes, packing, ring attention on a mesh, growing
          context, sampling) learn something in minutes, without an accelerator?
Paper     the method of 2402.08268, shrunk: 512 to 8K tokens for 4K to 1M, theta raised with them.
Command   bash launch/quickstart.sh, which runs among other steps
          python -m lwm.train --config=experiments/quickstart.py:vqgan \\
              --workdir=runs/quickstart/vqgan
          python -m lwm.train --config=experiments/quickstart.py:lwm \\
              --workdir=runs/quickstart/lwm --cpu_devices=8
Hardware  two CPU cores; a mesh of eight virtual devices, four or eight of them on "seq".
Expected  text below gzip -9 in bits per byte, video codes at least 15 % below their unigram
          entropy, frames rebuilt at least 6 dB better than by their mean colour. The figures of a
          run are on its page, summary.html; ours are in experiments/README.md.
"""

import ml_collections

from experiments import arguments
from experiments import vqgan as vqgans

DATA = "runs/quickstart/data"
VOCAB_SIZE = 2048  # SentencePiece pieces; launch/quickstart.sh trains as many
CODES = 512  # of the tiny VQGAN
MIXTURE = {"text": 0.6, "video": 0.4}  # of the rows; there are 15 times as many tokens of text


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of one part, `vqgan` or `lwm`; `quicktest` leaves two steps of each stage."""
    chosen = arguments.parse(argument, part="lwm", quicktest=False)
    if chosen.part not in PARTS:
        raise ValueError(f"config argument part={chosen.part!r}: not known; known are {', '.join(PARTS)}")
    config = PARTS[chosen.part]()
    if chosen.quicktest:
        for stage in config.stages.values():
            stage.steps, stage.warmup_steps, stage.eval_every = 2, 1, 0
    return config


def vqgan() -> ml_collections.ConfigDict:
    """Frames to codes: the tiny one of experiments/vqgan.py."""
    config = vqgans.get_config("size=tiny")
    config.experiment = "quickstart_vqgan"
    return config


def lwm() -> ml_collections.ConfigDict:
    """Text and codes: three stages, each from the weights of the one before."""
    config = ml_collections.ConfigDict(
        {
            "experiment": "quickstart_lwm",
            "seed": 0,
            "model": {
                "name": "lwm",
                "size": "tiny",
                "vocab_size": VOCAB_SIZE,
                "vision_vocab_size": CODES + 2,  # and <eof>, <eov>
                "init_std": 0.08,  # 1 / sqrt(D); with LLaMA's 0.02 so narrow a model starts too slowly
                "dtype": "float32",
                "remat": "attention_saveable",
                "ffn_chunk": 0,
                "loss_chunk": 0,
                "attention_block": 128,  # small blocks stay in a CPU core's cache
            },
            "data": {"path": DATA},
            "init": "",
            "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0},
            "log_every": 20,
            "checkpoint": {"keep": 1},
        },
        sort_keys=False,
    )
    config.stages = ml_collections.ConfigDict(
        {
            "context_512": _stage(512, 1e4, 130, (2e-3, 1e-3), warmup=20, data=2, seq=4),
            "context_2k": _stage(2048, 1e5, 30, (1e-3, 6e-4), warmup=5, data=2, seq=4),
            "context_8k": _stage(8192, 1e6, 8, (6e-4, 1e-4), warmup=2, data=1, seq=8, rows=2),
        },
        sort_keys=False,
    )
    return config


def _stage(
    context_length: int,
    theta: float,
    steps: int,
    learning_rates: tuple[float, float],
    *,
    warmup: int,
    data: int,
    seq: int,
    rows: int = 0,
) -> dict:
    return {
        "context_length": context_length,
        "rope_theta": theta,
        "batch_tokens": rows * context_length or 8192,
        "steps": steps,
        "learning_rate": learning_rates[0],
        "end_learning_rate": learning_rates[1],
        "warmup_steps": warmup,
        "schedule": "linear",
        "mesh": {"data": data, "fsdp": 1, "tensor": 1, "seq": seq},
        "mixture": dict(MIXTURE),
        "text_weight": 0.5,
        "vision_weight": 0.5,
        "eval_every": max(steps // 4, 1),
        "eval_batches": 2,
    }


PARTS = {"vqgan": vqgan, "lwm": lwm}
