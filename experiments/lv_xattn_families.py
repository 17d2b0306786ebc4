"""The families of LV-XAttn with 15 million visual tokens in a row, as a pod would train them.

Question  Do Llama 3-V 11B, mPLUG-Owl3 7B and OpenFlamingo 9B train on 15M features of video cut over the
          chips of a pod, and what is the difference between queries that travel and keys that do?
Paper     "LV-XAttn: Distributed Cross-Attention for Long Visual Inputs" (2502.02406), section 5: an average
          video of Video-MME, 2 386 s at a frame a second, is 15.3M features to Llama 3-V.
Command   python -m lwm.compile --config=experiments/lv_xattn_families.py:llama3v_11b --topology=v5p:4x4x4
          python -m lwm.compile --config=experiments/lv_xattn_families.py:owl3_7b,way=rotate_keys \\
              --topology=v5p:4x4x4
          All of them, into a table: python experiments/benchmarks/xattn_families.py
Small     python -m lwm.train --config=experiments/lv_xattn_families.py:quicktest --workdir=/tmp/families \\
              --config.data.path=DATA --cpu_devices=8
          two steps of a toy model for whichever size is asked, on a data folder with videos of 16 pixels.
Expected  every size fits 64 chips, with queries that travel and nothing of S positions sent. Compiled by us,
          not run: the table is experiments/results/xattn_families.csv. Weights are random and features
          stored: no weights of these families are read here.

The text has a token for each frame, as in the paper, and three to six thousand more for each clip. At 64
features a frame 15M are 239 104 frames, more than are numbered in one clip: OpenFlamingo looks at four.
"""

import ml_collections

from experiments import arguments

# Frames of a clip, clips in a row, and tokens of the row: what "seq" of 64 divides evenly.
ROWS = {
    "llama3v_11b": (2432, 1, 5632),
    "owl3_7b": (20_992, 1, 24_576),
    "flamingo_9b": (59_776, 4, 262_144),
}


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of a `size`, `way` and `recompute` as in `CrossAttentionConfig`; `quicktest`: for a CPU."""
    chosen = arguments.parse(
        argument, size="llama3v_11b", way="rotate_queries", recompute=True, quicktest=False
    )
    if chosen.size not in ROWS:
        raise ValueError(f"config argument size={chosen.size!r}: not known; known are {', '.join(ROWS)}")
    frames, questions, context_length = ROWS[chosen.size]
    config = ml_collections.ConfigDict(
        {
            "experiment": f"lv_xattn_families_{chosen.size}",
            "seed": 0,
            "model": {
                "name": "cross_attention",
                "size": chosen.size,
                "way": chosen.way,
                "recompute": chosen.recompute,
                # Features are stored, as many a frame as the layers look at.
                "encoder_layers": 0,
                "resampler_layers": 0,
                "dtype": "bfloat16",
                "remat": "nothing_saveable",
                "loss_chunk": 1024,
                "attention_block": 512,
            },
            "data": {"path": "data/videos"},
            "init": "",
            "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0},
            "log_every": 10,
            "checkpoint": {"keep": 1},
            "stages": {
                "video_15m": {
                    "context_length": context_length,
                    "rope_theta": 5e5,
                    "batch_tokens": context_length,
                    "steps": 1000,
                    "learning_rate": 1e-5,
                    "end_learning_rate": 1e-5,
                    "warmup_steps": 100,
                    "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "seq": -1},
                    "mixture": {"odd": 1.0},
                    "frames": frames,
                    "questions": questions,
                    "text_weight": 1.0,
                    "vision_weight": 0.0,
                }
            },
        },
        sort_keys=False,
    )
    return shrink(config) if chosen.quicktest else config


def shrink(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same stage with the size "debug", which has an encoder, and two steps."""
    config.model.update(
        size="debug", resolution=16, encoder_layers=1, frame_tokens=16, vocab_size=2048, dtype="float32"
    )
    stage = config.stages.video_15m
    stage.update(frames=16, context_length=1024, batch_tokens=2048, steps=2, warmup_steps=1)
    stage.mesh.update(data=1, fsdp=1, seq=8)
    if stage.questions > 1:
        stage.questions = 2
    return config
