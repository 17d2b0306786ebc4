"""DreamLLM in miniature: all parts ours, trained from nothing on Tux Paint's stamps, then joined and frozen.

Question  Can one language model read and draw stamps, and learn where in an album a picture belongs?
Paper     DreamLLM (2309.11499): alignment, I-GPT on interleaved documents, instruction tuning; losses 1 for
          language and 10 for denoising; decoder and eyes frozen in all of these, as they are here.
Command   launch/task_sources.sh runs/tasks
          python -m experiments.dreamllm_data --sources=runs/tasks --output=runs/dreamllm/data
          python -m lwm.train --config=experiments/dreamllm_miniature.py --workdir=runs/dreamllm/model \\
              --cpu_devices=2
          python -m lwm.evaluate --workdir=runs/dreamllm/model --stage=igpt
          and for the other stages; then python -m lwm.generate --workdir=runs/dreamllm/model --prompt=animals
Manual    python -m experiments.dreamllm_manual --sources=runs/tasks --output=runs/dreamllm/manual
          python -m lwm.train --config=experiments/dreamllm_miniature.py:manual --cpu_devices=2 \\
              --config.init=runs/dreamllm/model --workdir=runs/dreamllm/read --data=runs/dreamllm/manual
Hardware  two CPU cores.
Expected  29 minutes; of held-out stamps 58 % of kinds and 72 % of colours right (majority 32 and 25), F1 of
          where dreams open 0.97 to 0.98, drawings that show the right kind in 52 % and the right colour in 38
          to 52 % at guidance 2: README.md of this folder, also of a second run. Seed 0.
          The manual: 16 minutes on one core, 1.62 nats a byte (3.26 by how often bytes come), F1 0.37.

Stand-ins. The first stage trains what the paper takes from others, each part by its own loss: the decoder
with a text encoder of its own (for Stable Diffusion), the eyes by contrast with the same text encoder (for
CLIP), the language model on captions (for Vicuna). All are tiny, and 8 queries stand for the paper's 64.
"""

import ml_collections

from experiments import arguments

RESOLUTION, LENGTH = 32, 256
FROZEN_BESIDE = ("projector", "queries", "condition")  # what alignment trains, beside what is frozen


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config; `quicktest` leaves two steps a stage of a smaller model.

    `manual`: one more stage in its place, pages of a manual in rows that two devices share.
    """
    chosen = arguments.parse(argument, quicktest=False, manual=False)
    config = ml_collections.ConfigDict(
        {
            "experiment": "dreamllm_miniature",
            "seed": 0,
            "model": {"name": "dreamllm", "size": "tiny"},
            "data": {"path": "runs/dreamllm/data"},
            "init": "",
            "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0},
            "log_every": 50,
            "checkpoint": {"keep": 1},
            "stages": ml_collections.ConfigDict(
                {
                    "parts": stage(
                        steps=2400,
                        rates=(2e-3, 2e-5),
                        mixture={"stamps": 1.0},
                        forms={"stamps": "comprehension"},
                        trains=("vision", "language", "decoder", "contrast"),
                        images=5,
                        text_weight=1.0,
                        vision_weight=0.0,
                        decoder_weight=1.0,
                        contrast_weight=1.0,
                    ),
                    "align": stage(
                        steps=400,
                        rates=(2e-3, 2e-4),
                        mixture={"stamps": 1.0},
                        forms={"stamps": "pairs"},
                        trains=FROZEN_BESIDE,
                    ),
                    "igpt": stage(
                        steps=1000,
                        rates=(1e-3, 1e-4),
                        mixture={"albums": 0.5, "stamps": 0.5},
                        forms={"stamps": "pairs"},
                        trains=(*FROZEN_BESIDE, "language"),
                    ),
                    "instruct": stage(
                        steps=400,
                        rates=(5e-4, 5e-5),
                        mixture={"questions": 0.5, "drawings": 0.25, "albums": 0.25},
                        forms={"questions": "comprehension"},
                        trains=(*FROZEN_BESIDE, "language"),
                    ),
                },
                sort_keys=False,
            ),
        },
        sort_keys=False,
    )
    if chosen.manual:
        config.experiment = "dreamllm_manual"
        config.stages = ml_collections.ConfigDict({"manual": _manual()}, sort_keys=False)
    if chosen.quicktest:
        config.model.size = "debug"
        config.model.vision = {"resolution": RESOLUTION, "patch": 16}
        config.model.decoder = {"resolution": RESOLUTION, "patch": 4, "text_vocab_size": 259}
        config.log_every = 1
        for one in config.stages.values():
            one.steps, one.warmup_steps, one.eval_every = 2, 1, 0
    return config


def _manual() -> dict:
    """I-GPT on long pages: rows of 8,192 bytes and up to 64 pictures, cut over the ring."""
    length = 8192
    return stage(
        steps=400,
        rates=(1e-3, 1e-4),
        mixture={"manual": 1.0},
        trains=(*FROZEN_BESIDE, "language"),
        context_length=length,
        batch_tokens=length,
        images=64,
        mirror=False,  # texts tell left from right
        mesh={"data": 1, "fsdp": 1, "tensor": 1, "seq": 2},
    )


def stage(
    *, steps: int, rates: tuple[float, float], mixture: dict[str, float], trains: tuple, **more
) -> dict:
    """A stage of rows of 256 tokens, 8 rows a step, and room for as many pictures as such rows hold: 6."""
    return {
        "context_length": LENGTH,
        "rope_theta": 1e4,
        "batch_tokens": 8 * LENGTH,
        "steps": steps,
        "learning_rate": rates[0],
        "end_learning_rate": rates[1],
        "warmup_steps": 20,
        "schedule": "cosine",
        "mesh": {"data": 2, "fsdp": 1, "tensor": 1, "seq": 1},
        "mixture": mixture,
        "images": 6,
        "shift": 2,
        "mirror": True,
        "trains": trains,
        "text_weight": 1.0,
        "vision_weight": 10.0,
        "eval_every": steps // 2,
        "eval_batches": 2,
        "checkpoint_every": steps // 2,
        **more,
    }
