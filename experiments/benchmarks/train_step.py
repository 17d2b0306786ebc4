r"""Tokens per second of one whole training step: ours beside a Hugging Face PyTorch Llama of the same shape.

    python experiments/benchmarks/train_step.py --lengths=2048,8192,16384 --rounds=7 \
        --output=experiments/results/train_step.csv

Both sides do forward, backward, clipping by global norm and AdamW in float32 on one sequence, with the
shape of the quickstart's model. Ours has a text head and a vision head at every position; the Llama has one
vocabulary as large as both together, so the matrix products are the same in number and size.

The profile beside it: seconds of attention alone (forward and backward, all layers, the same shapes and
settings), by which one sees what of the difference is attention's and what is the rest's.

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
    """Returns functions that run one step of ours, or its attention, on a ring of virtual CPU devices."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    import jax.numpy as jnp
    import numpy as np

    from lwm.models.transformer import LWM, TransformerConfig
    from lwm.ops.ring_attention import ring_attention
    from lwm.parallel.layout import zigzag_order
    from lwm.parallel.mesh import make_mesh
    from lwm.parallel.sharding import batch_shardings
    from lwm.training.optimizers import make_optimizer
    from lwm.training.state import init_state
    from lwm.training.step import make_train_step

    config = TransformerConfig(
        vocab_size=TEXT_VOCABULARY,
        vision_vocab_size=VISION_VOCABULARY,
        **shape,
        remat="attention_saveable",
        attention_block=128 if devices > 1 else 512,
    )
    model = LWM(config)
    optimizer = make_optimizer(
        learning_rate=1e-3, end_learning_rate=1e-3, warmup_steps=1, steps=100, schedule="constant"
    )
    mesh = make_mesh(seq=devices)
    rng = np.random.default_rng(0)
    order = zigzag_order(length, devices)
    is_vision = (np.arange(length) % 130 < 65)[None]
    tokens = np.where(
        is_vision,
        rng.integers(0, VISION_VOCABULARY, (1, length)),
        rng.integers(0, TEXT_VOCABULARY, (1, length)),
    ).astype(np.int32)
    batch = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, 1),
        "is_vision": is_vision,
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

    def attend(q_BTNH, k_BTKH, v_BTKH):
        return jnp.sum(
            ring_attention(q_BTNH, k_BTKH, v_BTKH, batch["segments"], block=config.attention_block)
        )

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "seq"))
    qkv = [
        jax.device_put(rng.normal(size=(1, length, heads, config.head_dim)).astype(np.float32), sharding)
        for heads in (config.heads, config.kv_heads, config.kv_heads)
    ]
    gradients = jax.jit(jax.grad(attend, argnums=(0, 1, 2)))

    def run_attention():
        for _ in range(config.layers):
            jax.block_until_ready(gradients(*qkv))

    return run, run_attention


def torch_step(length: int, shape: dict):
    """Returns functions that run one step of a `LlamaForCausalLM`, or the fused attention in it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    vocabulary = TEXT_VOCABULARY + VISION_VOCABULARY
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=shape["width"],
            intermediate_size=shape["ffn"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["kv_heads"],
            head_dim=shape["head_dim"],
            max_position_embeddings=length,
            attn_implementation="sdpa",
            tie_word_embeddings=False,
            use_cache=False,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    tokens = torch.randint(0, vocabulary, (1, length))

    def run():
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    heads, kv_heads, size = shape["heads"], shape["kv_heads"], shape["head_dim"]
    q, k, v = (torch.randn(1, n, length, size, requires_grad=True) for n in (heads, kv_heads, kv_heads))

    def run_attention():
        for _ in range(shape["layers"]):
            each = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (k, v))
            torch.nn.functional.scaled_dot_product_attention(q, *each, is_causal=True).sum().backward()

    return run, run_attention


def serve(side: str, length: int, devices: int) -> None:
    """A worker: warms up, then runs what each line on stdin asks for and answers with its seconds."""
    step, attention = lwm_step(length, devices, SHAPE) if side == "lwm" else torch_step(length, SHAPE)
    for _ in range(2):
        step()
        attention()
    print("ready", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        {"step": step, "attention": attention}[line.strip()]()
        print(time.perf_counter() - start, flush=True)


def compare(length: int, devices: int, rounds: int) -> dict:
    """Runs both sides in turn; returns one row of the table."""
    workers = {
        side: subprocess.Popen(
            [sys.executable, __file__, f"--worker={side}", f"--lengths={length}", f"--devices={devices}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side in SIDES
    }
    for side, worker in workers.items():
        if worker.stdout.readline().strip() != "ready":
            raise SystemExit(f"error: the {side} side did not start; see its message above")
    seconds = {(side, part): [] for side in SIDES for part in ("step", "attention")}
    for _ in range(rounds):
        for part in ("step", "attention"):
            for side, worker in workers.items():
                worker.stdin.write(f"{part}\n")
                worker.stdin.flush()
                seconds[side, part].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    pairs = zip(seconds["lwm", "step"], seconds["torch", "step"], strict=True)
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    median = {key: statistics.median(taken) for key, taken in seconds.items()}
    return {
        "length": length,
        "devices": devices,
        "lwm_tokens_per_second": round(length / median["lwm", "step"]),
        "torch_tokens_per_second": round(length / median["torch", "step"]),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(ratios[0], 3),
        "ratio_max": round(ratios[-1], 3),
        "lwm_step_seconds": round(median["lwm", "step"], 4),
        "lwm_attention_seconds": round(median["lwm", "attention"], 4),
        "torch_step_seconds": round(median["torch", "step"], 4),
        "torch_attention_seconds": round(median["torch", "attention"], 4),
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
