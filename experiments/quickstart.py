"""The quickstart: a tiny VQGAN, then a tiny LWM through three stages of context, on two CPU cores.

Question  Does the whole road (real video and text, codes, packing, ring attention on a mesh, growing
          context, sampling) learn something in minutes, without an accelerator?
Paper     the method of 2402.08268, shrunk: 512 to 8K tokens for 4K to 1M, theta raised with them.
Command   bash launch/quickstart.sh, which runs among other steps
          python -m lwm.train --config=experiments/quickstart.py:vqgan \\
              --workdir=runs/quickstart/vqgan
          python -m lwm.train --config=experiments/quickstart.py:lwm \\
              --workdir=runs/quickstart/lwm --cpu_devices=8
Hardware  two CPU cores; a mesh of eight virtual devices, two or four of them on "seq".
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
    config.stages.frames.steps = 900  # 600 are enough for the videos alone, not for eight crops of each
    return config


def lwm() -> ml_collections.ConfigDict:
    """Text and codes: three stages, each from the weights of the one before.

    What is to be learned from so little is to look at the same place in the frame before, 65 tokens back.
    Three things decide whether that happens in minutes (all seen in miniature, one seed): many small steps
    (2,048 tokens each; with 8,192 it did not begin), several crops of each training clip (`--views=8`;
    without them the four videos are learned by heart instead: 1.0 nats on them, 4.4 on held-out video), and a
    theta that hardly grows. At 512 tokens of context such a model has 1.0 nats in later frames at the theta
    it was trained with, 1,000; 2.7 at 1,500 and 5.4 at 2,000; forty steps do not mend that.
    """
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
            "log_every": 50,
            "checkpoint": {"keep": 1},
        },
        sort_keys=False,
    )
    config.stages = ml_collections.ConfigDict(
        {
            "context_512": _stage(
                512, 1000, 900, (5e-3, 2e-3), rows=4, warmup=60, data=4, seq=2, video=0.7, vision_weight=0.7
            ),
            "context_2k": _stage(2048, 1100, 70, (3e-3, 1.5e-3), rows=2, warmup=5, data=2, seq=4, video=0.6),
            "context_8k": _stage(8192, 1210, 10, (1.5e-3, 3e-4), rows=2, warmup=2, data=2, seq=4, video=0.5),
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
    rows: int,
    warmup: int,
    data: int,
    seq: int,
    video: float,
    vision_weight: float = 0.5,
) -> dict:
    return {
        "context_length": context_length,
        "rope_theta": float(theta),
        "batch_tokens": rows * context_length,
        "steps": steps,
        "learning_rate": learning_rates[0],
        "end_learning_rate": learning_rates[1],
        "warmup_steps": warmup,
        "schedule": "linear",
        "mesh": {"data": data, "fsdp": 1, "tensor": 1, "seq": seq},
        "mixture": {"text": round(1 - video, 2), "video": video},
        "text_weight": round(1 - vision_weight, 2),
        "vision_weight": vision_weight,
        "eval_every": max(steps // 5, 1),
        "eval_batches": 2,
    }


PARTS = {"vqgan": vqgan, "lwm": lwm}
