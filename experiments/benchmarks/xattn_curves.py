r"""Do training curves agree, whichever way queries and keys come together, on however many devices?

    python experiments/benchmarks/xattn_curves.py --output=experiments/results/xattn_curves.csv

The tiny model of lwm/models/cross_attention.py learns to name the colours of frames as they come: 200 steps
of AdamW in float32, each on new clips, the rate falling from 3e-4 to 0 along a cosine. The curve of a dense
model on a page (xattn_dense.py: all scores at once, one device, plain autodiff) is what the others are held
against: LV-XAttn, a ring of keys and gathered queries, with recomputation and without, on 1, 2, 4 and 8
virtual devices. `largest_difference` is that of the loss in any of the steps. Rows that are in the table are
not made again.

At a constant 1e-3 AdamW magnifies rounding: for 60 steps the tiny model's curves differed by less than 1e-6,
after 200 by up to 0.04 from the dense one, and LV-XAttn with recomputation from itself without by 0.003 in
the last step. That compares roundings, not methods.
"""

import argparse
import csv
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
KEY = ("size", "steps", "devices", "way", "recompute")
WAYS = ("rotate_queries", "rotate_keys", "gather_queries")
ROWS, TOKENS, FRAMES, COLOURS = 2, 64, 8, 16


def batch_of(config, number: int) -> dict:
    """Clips of a step: frames of one colour each and noise; the text names that of the frame it sees."""
    import numpy as np

    rng = np.random.default_rng([7, number])
    colours = rng.integers(0, COLOURS, (ROWS, FRAMES))
    noise = rng.integers(0, 16, (ROWS, FRAMES, config.resolution, config.resolution, 3))
    media = np.broadcast_to(np.arange(TOKENS) * (FRAMES + 1) // TOKENS, (ROWS, TOKENS))
    seen = np.take_along_axis(colours, np.maximum(media - 1, 0), axis=1)
    targets = np.where(media > 0, 3 + seen, 2)
    everything = {name: np.zeros((ROWS, TOKENS), bool) for name in ("is_vision", "targets_are_vision")}
    return everything | {
        "tokens": np.concatenate([np.ones((ROWS, 1), int), targets[:, :-1]], axis=1).astype(np.int32),
        "targets": targets.astype(np.int32),
        "weights": np.full((ROWS, TOKENS), 1 / TOKENS, np.float32),
        "segments": np.ones((ROWS, TOKENS), np.int32),
        "positions": np.tile(np.arange(TOKENS, dtype=np.int32), (ROWS, 1)),
        "media": media.astype(np.int32),
        "frames": (16 * colours[..., None, None, None] + noise).astype(np.uint8),
        "frame_ids": np.tile(1 + np.arange(FRAMES, dtype=np.int32), (ROWS, 1)),
    }


def curve(model, devices: int, steps: int) -> list[float]:
    """The loss of each step, on a ring of so many devices."""
    import jax

    from lwm.parallel.layout import zigzag_order
    from lwm.parallel.mesh import make_mesh
    from lwm.parallel.sharding import batch_shardings
    from lwm.training.optimizers import make_optimizer
    from lwm.training.state import init_state
    from lwm.training.step import make_train_step

    mesh = make_mesh(seq=devices, devices=jax.devices()[:devices])
    optimizer = make_optimizer(learning_rate=3e-4, steps=steps, warmup_steps=10, schedule="cosine")
    order, losses = zigzag_order(TOKENS, devices), []
    with jax.set_mesh(mesh):
        state = init_state(model, optimizer, jax.random.key(0), batch_of(model.config, 0), mesh)
        step = make_train_step(model, optimizer)
        for number in range(steps):
            batch = {
                name: x if name.startswith("frame") else x[:, order]
                for name, x in batch_of(model.config, number).items()
            }
            state, metrics = step(state, jax.device_put(batch, batch_shardings(batch, mesh)))
            losses.append(float(metrics["loss"]))
    return losses


def model_of(size: str, **changes):
    """The model of a size, its tables cut to the few tokens that there are."""
    from lwm.models.cross_attention import SIZES, CrossAttentionConfig, CrossAttentionLM

    config = SIZES[size] | dict(vocab_size=3 + COLOURS, text_weight=1.0, attention_block=32)
    return CrossAttentionLM(CrossAttentionConfig(**config | changes))


def compare(expected: list[float], asked: dict) -> dict:
    """One row of the table: a way against the dense curve."""
    start = time.perf_counter()
    model = model_of(asked["size"], way=asked["way"], recompute=asked["recompute"])
    losses = curve(model, asked["devices"], asked["steps"])
    differences = [abs(ours - theirs) for ours, theirs in zip(losses, expected, strict=True)]
    return asked | {
        "first_loss": f"{losses[0]:.6f}",
        "last_loss": f"{losses[-1]:.6f}",
        "dense_last_loss": f"{expected[-1]:.6f}",
        "largest_difference": f"{max(differences):.3e}",
        "at_step": differences.index(max(differences)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def dense_curve(size: str, steps: int) -> list[float]:
    """The curve that the others are held against."""
    sys.path.insert(0, str(HERE))
    from xattn_dense import Dense

    return curve(Dense(model_of(size)), 1, steps)


def read(path: pathlib.Path) -> list[dict]:
    """Rows of the table, none if there is no table."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def write(path: pathlib.Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def start(devices: int) -> None:
    """So many virtual devices, before anything is computed."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)


def commit() -> str:
    """What git says of the code; "" without git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", default="tiny", help="of the model")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--devices", default="1,2,4,8", help='sizes of "seq", comma-separated')
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated")
    parser.add_argument("--recompute", default="1,0", help="with recomputation (1), without (0)")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("experiments/results/xattn_curves.csv")
    )
    flags = parser.parse_args()
    if unknown := set(flags.ways.split(",")) - set(WAYS):
        raise SystemExit(f"--ways: {min(unknown)!r} is unknown; choose from {', '.join(WAYS)}")
    start(max(map(int, flags.devices.split(","))))
    rows, expected = read(flags.output), None
    for devices in map(int, flags.devices.split(",")):
        for way in flags.ways.split(","):
            for recompute in map(bool, map(int, flags.recompute.split(","))):
                values = flags.size, flags.steps, devices, way, recompute
                asked = dict(zip(KEY, values, strict=True))
                if any(all(row[name] == str(asked[name]) for name in KEY) for row in rows):
                    continue
                expected = expected or dense_curve(flags.size, flags.steps)
                made = {"commit": commit(), "command": "python " + " ".join(sys.argv)}
                rows.append({name: str(x) for name, x in (compare(expected, asked) | made).items()})
                write(flags.output, rows)
                print(
                    {name: rows[-1][name] for name in (*KEY, "last_loss", "largest_difference")}, flush=True
                )


if __name__ == "__main__":
    main()
