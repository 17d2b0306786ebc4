r"""What recomputing the keys and values of cross-attention costs in time: steps side by side on this machine.

    python experiments/benchmarks/xattn_overhead.py                      # two idle cores, minutes
    python experiments/benchmarks/xattn_overhead.py --devices=8 --rounds=9

Question  How much longer is a step (value and gradient of the loss) that makes keys and values again?
Paper     LV-XAttn (2502.02406): below 8 % of the time.
Shape     Llama 3-V 11B's with its widths and its text cut to a sixteenth, one cross-attention layer of the
          eight with its five blocks, float32: the products of attention are to those of the projection of
          keys as there (tokens / width of the keys = 5.4). The clip has 131,072 features instead of 15M, by
          which the blocks weigh more and the overhead seems a little smaller.

Both steps are compiled, then take turns; `ratio` is the median over the rounds of their quotient, between the
smallest and the largest. A row takes the place of the one that was there for the same question.
"""

import argparse
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
SHAPE = dict(
    vocab_size=256, vision_vocab_size=0, width=256, ffn=896, layers=5, heads=8, kv_heads=2, head_dim=32,
    cross_layers=1, cross_ffn=896, feature_width=256, frame_tokens=64, remat="none", attention_block=256,
)  # fmt: skip
KEY = ("tokens", "S", "devices")


def batch_of(model, tokens: int, frames: int) -> dict:
    """Random tokens, each of which sees the frames of its part of the clip and those before, and features."""
    import numpy as np

    rng, config = np.random.default_rng(0), model.config
    features = rng.standard_normal((1, frames, config.frame_tokens, config.feature_width), np.float32)
    words = rng.integers(0, config.vocab_size, (2, 1, tokens), np.int32)
    return {
        "tokens": words[0],
        "targets": words[1],
        "weights": np.full((1, tokens), 1 / tokens, np.float32),
        "segments": np.ones((1, tokens), np.int32),
        "positions": np.arange(tokens, dtype=np.int32)[None],
        "media": (np.arange(tokens, dtype=np.int32) * frames // tokens + 1)[None],
        "is_vision": np.zeros((1, tokens), bool),
        "targets_are_vision": np.zeros((1, tokens), bool),
        "features": features,
        "frame_ids": np.arange(1, frames + 1, dtype=np.int32)[None],
    }


def measure(tokens: int, S: int, devices: int, rounds: int) -> dict:
    """A row: seconds of both steps, and how they compare."""
    import jax

    from lwm.models.cross_attention import CrossAttentionConfig, CrossAttentionLM
    from lwm.parallel.layout import zigzag_order
    from lwm.parallel.mesh import make_mesh
    from lwm.parallel.sharding import batch_shardings, shardings

    mesh = make_mesh(seq=devices, devices=jax.devices()[:devices])
    order, steps, seconds = zigzag_order(tokens, devices), {}, {False: [], True: []}
    with jax.set_mesh(mesh):
        for recompute in seconds:
            model = CrossAttentionLM(CrossAttentionConfig(**SHAPE, recompute=recompute))
            if not steps:
                batch = batch_of(model, tokens, S // SHAPE["frame_tokens"])
                params = model.init(jax.random.key(0), batch)
                params = jax.device_put(params, shardings(model.PARTITION_RULES, params, mesh))
                batch = {
                    name: x if name in ("features", "frame_ids") else x[:, order] for name, x in batch.items()
                }
                batch = jax.device_put(batch, batch_shardings(batch, mesh))

            def loss(params, batch, model=model):
                return model.loss(params, batch, None)[0]

            steps[recompute] = jax.jit(jax.value_and_grad(loss))
            jax.block_until_ready(steps[recompute](params, batch))
        for _ in range(rounds):
            for recompute, step in steps.items():
                start = time.perf_counter()
                jax.block_until_ready(step(params, batch))
                seconds[recompute].append(time.perf_counter() - start)
    ratios = [again / kept for kept, again in zip(seconds[False], seconds[True], strict=True)]
    return {
        "tokens": tokens,
        "S": S,
        "devices": devices,
        "rounds": rounds,
        "seconds_kept": round(statistics.median(seconds[False]), 3),
        "seconds_recomputed": round(statistics.median(seconds[True]), 3),
        "ratio": round(statistics.median(ratios), 4),
        "low": round(min(ratios), 4),
        "high": round(max(ratios), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=344)
    parser.add_argument("--features", type=int, default=131_072)
    parser.add_argument("--devices", type=int, default=1, help='size of "seq"')
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=pathlib.Path, default=HERE.parent / "results/xattn_overhead.csv")
    flags = parser.parse_args()
    if flags.tokens % (2 * flags.devices) or flags.features % (SHAPE["frame_tokens"] * flags.devices):
        raise SystemExit(
            f"--devices: {flags.devices} do not divide {flags.tokens} tokens into two equal runs each and"
            f" {flags.features} features into whole frames of {SHAPE['frame_tokens']}"
        )
    sys.path.insert(0, str(HERE))
    from xattn_curves import commit, read, start, write

    start(flags.devices)
    row = measure(flags.tokens, flags.features, flags.devices, flags.rounds)
    row |= {"commit": commit(), "command": "python " + " ".join(sys.argv)}
    print(row)
    row = {name: str(value) for name, value in row.items()}
    others = [other for other in read(flags.output) if any(other[name] != row[name] for name in KEY)]
    write(flags.output, others + [row])


if __name__ == "__main__":
    main()
