"""LWM-Text: a 7B language model taken from 4K to 1M tokens of context in five stages.

Paper     "World Model on Million-Length Video and Language with Blockwise RingAttention"
          (2402.08268), section 3 and table 11.
Command   python -m lwm.train --config=experiments/lwm_text.py --workdir=gs://BUCKET/lwm_text \\
              --config.data.path=gs://BUCKET/books --config.init=gs://BUCKET/llama2_7b
          on every host of a TPU v4-512 (256 chips); the workdir given as init holds LLaMA-2 7B.
Small     python -m lwm.train --config=experiments/lwm_text.py:quicktest --workdir=/tmp/lwm_text \\
              --config.data.path=runs/quickstart/data --cpu_devices=8
          the same five stages with a toy model and short lengths, on a CPU in about a minute.
Data      `python -m lwm.prepare` on books as JSON lines, each with its "source": books_10k for
          books of 10K to 100K tokens, then books_100k, books_200k, books_500k and books_1m.
Expected  about 8, 45, 83, 47 and 58 hours for the five stages; every needle of the 1M grid found.
          Not run by us: it needs 256 TPU v4 chips, LLaMA-2 7B and Books3.

Where the numbers come from: theta of the stages from 128K on, the optimizer and the book lengths
were read in the authors' release; lengths, steps, learning rates, warm-ups, meshes and the theta of
the 32K stage in notes that transcribe table 11, whose products steps x tokens agree with its totals.
The hours, except those of the last stage, are from memory. "4M tokens" is taken as 2^22. The chunk
sizes, evaluations and checkpoints are ours (the authors' scripts use chunks of 256 to 1024).
"""

import ml_collections

from experiments import arguments, quicktest

BATCH_TOKENS = 2**22


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of the five stages; `quicktest`: for a CPU."""
    chosen = arguments.parse(argument, quicktest=False)
    config = ml_collections.ConfigDict(
        {
            "experiment": "lwm_text",
            "seed": 0,
            "model": {
                "name": "lwm",
                "size": "7b",
                "vision_vocab_size": 0,  # text only; the vision stages add their tables
                "dtype": "bfloat16",
                "remat": "nothing_saveable",
                "ffn_chunk": 1024,
                "loss_chunk": 1024,
                "attention_block": 512,
            },
            "data": {"path": "data/books"},
            "init": "runs/llama2_7b",
            "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0},
            "log_every": 10,
            "checkpoint": {"keep": 2},
        },
        sort_keys=False,
    )
    config.stages = ml_collections.ConfigDict(
        {
            "text_32k": stage(2**15, 1e6, 1200, 100, {"books_10k": 1.0}, tensor=4, seq=1),
            "text_128k": stage(2**17, 1e7, 3000, 200, {"books_100k": 1.0}, tensor=8, seq=1),
            "text_256k": stage(2**18, 1e7, 3000, 200, {"books_200k": 1.0}, tensor=16, seq=1),
            "text_512k": stage(2**19, 2.5e7, 720, 50, {"books_500k": 1.0}, tensor=16, seq=2),
            "text_1m": stage(2**20, 5e7, 450, 25, {"books_1m": 1.0}, tensor=16, seq=4),
        },
        sort_keys=False,
    )
    return quicktest.shrink(config) if chosen.quicktest else config


def stage(
    context_length: int,
    theta: float,
    steps: int,
    warmup: int,
    mixture: dict[str, float],
    *,
    tensor: int,
    seq: int,
) -> dict:
    """A stage at the paper's constant learning rate; "fsdp" takes the chips that tensor and seq leave."""
    return {
        "context_length": context_length,
        "rope_theta": theta,
        "batch_tokens": BATCH_TOKENS,
        "steps": steps,
        "learning_rate": 4e-5,
        "end_learning_rate": 4e-5,
        "warmup_steps": warmup,
        "schedule": "constant",
        "mesh": {"data": 1, "fsdp": -1, "tensor": tensor, "seq": seq},
        "mixture": mixture,
        "text_weight": 1.0,
        "vision_weight": 0.0,
        "eval_every": 100,
        "checkpoint_every": 50,
    }
