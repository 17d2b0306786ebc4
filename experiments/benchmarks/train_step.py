r"""Tokens per second of one whole training step: ours beside a Hugging Face PyTorch Llama of the same shape.

    python experiments/benchmarks/train_step.py --lengths=2048,8192,16384 --rounds=7 \
        --output=experiments/results/train_step.csv

Both sides do forward, backward, clipping by global norm and AdamW in float32 on one sequence, with the
shape of the quickstart's model. Ours has a text head and a vision head at every position; the Llama has one
vocabulary as large as both together, so the matrix products are the same in number and size.

Each side lives in a process of its own (two thread pools in one process disturb each other), is compiled and
warmed up, then the two take turns, step by step: A B A B. The ratio is the median of the ratios of the pairs.
Needs `pip install '.[benchmarks]'`.
"""

import argparse
import csv
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

SHAPE = dict(width=128, ffn=384, layers=4, heads=4, kv_heads=2, head_dim=32)
TEXT_VOCABULARY, VISION_VOCABULARY = 2048, 512
SIDES = ("lwm", "torch")


def lwm_step(length: int, devices: int, shape: dict):
    """Returns a function that runs one step of ours on a ring of `devices` virtual CPU devices."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from lwm.models.transformer import LWM, TransformerConfig
    from lwm.parallel.layout import zigzag_order
    from lwm.parallel.mesh import make_mesh
    from lwm.parallel.sharding import batch_shardings
    from lwm.training.optimizers import make_optimizer
    from lwm.training.state import init_state
    from lwm.training.step import make_train_step

    config = TransformerConfig(
        vocab_size=TEXT_VOCABULARY, vision_vocab_size=VISION_VOCABULARY, **shape,
        remat="attention_saveable", attention_block=128 if devices > 1 else 512,
    )
    model = LWM(config)
    optimizer = make_optimizer(learning_rate=1e-3, end_learning_rate=1e-3, warmup_steps=1, steps=100,
                               schedule="constant")
    mesh = make_mesh(seq=devices)
    rng = np.random.default_rng(0)
    order = zigzag_order(length, devices)
    is_vision = (np.arange(length) % 130 < 65)[None]
    tokens = np.where(is_vision, rng.integers(0, VISION_VOCABULARY, (1, length)),
                      rng.integers(0, TEXT_VOCABULARY, (1, length))).astype(np.int32)
    batch = {
        "tokens": tokens, "targets": np.roll(tokens, -1, 1), "is_vision": is_vision,
        "targets_are_vision": np.roll(is_vision, -1, 1),
        "weights": np.full((1, length), 2 / length, np.float32),
        "segments": np.ones((1, length), np.int32),
        "positions": np.arange(length, dtype=np.int32)[None],
    }
    jax.set_mesh(mesh)
    batch = {name: array[:, order] for name, array in batch.items()}
    batch = jax.device_put(batch, batch_shardings(batch, mesh))
    state = init_state(model, optimizer, jax.random.key(0), batch, mesh)
    step = make_train_step(model, optimizer)

    def run():
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def torch_step(length: int, shape: dict):
    """Returns a function that runs one step of a `LlamaForCausalLM` with PyTorch's fused attention."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocabulary = TEXT_VOCABULARY + VISION_VOCABULARY
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary, hidden_size=shape["width"], intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"], head_dim=shape["head_dim"], max_position_embeddings=length,
        attn_implementation="sdpa", tie_word_embeddings=False, use_cache=False,
    ))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(0, vocabulary, (1, length))

    def run():
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def serve(side: str, length: int, devices: int) -> None:
    """A worker: warms up, then runs one step for each line on stdin and answers with its seconds."""
    run = lwm_step(length, devices, SHAPE) if side == "lwm" else torch_step(length, SHAPE)
    for _ in range(2):
        run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def compare(length: int, devices: int, rounds: int) -> dict:
    """Runs both sides in turn; returns one row of the table."""
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, f"--worker={side}", f"--lengths={length}", f"--devices={devices}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for side in SIDES
    }
    for side, worker in workers.items():
        if worker.stdout.readline().strip() != "ready":
            raise SystemExit(f"error: the {side} side did not start; see its message above")
    seconds = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, worker in workers.items():
            worker.stdin.write("step\n")
            worker.stdin.flush()
            seconds[side].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    ratios = sorted(theirs / ours for ours, theirs in zip(seconds["lwm"], seconds["torch"], strict=True))
    return {
        "length": length,
        "devices": devices,
        "lwm_tokens_per_second": round(length / statistics.median(seconds["lwm"])),
        "torch_tokens_per_second": round(length / statistics.median(seconds["torch"])),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "rounds": rounds,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", default="2048,8192,16384", help="sequence lengths, comma-separated")
    parser.add_argument("--devices", default="8", help="virtual CPU devices in our ring, comma-separated")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each side")
    parser.add_argument("--output", type=pathlib.Path, help="CSV file to write")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return serve(arguments.worker, int(arguments.lengths), int(arguments.devices))
    rows = []
    for length in map(int, arguments.lengths.split(",")):
        for devices in map(int, arguments.devices.split(",")):
            rows.append(compare(length, devices, arguments.rounds))
            print(rows[-1], flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with arguments.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
