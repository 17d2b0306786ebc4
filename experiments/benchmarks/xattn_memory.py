r"""What recomputation of cross-attention saves, what it costs, and how much longer video may be for it.

    python experiments/benchmarks/xattn_memory.py --output=experiments/results/xattn_memory.csv
    python experiments/benchmarks/xattn_memory.py --questions=longest --layers=4 --key_blocks=4096

All of it is read from programs (value and gradient of the loss, stored features); nothing is run. A row takes
the place of the one that was there for the same question.

    kept      what lies between the forward and the backward pass (outputs of the compiled forward pass of
              `jax.vjp`) without and with recomputation, for 1, 2, 4 and 8 cross-attention layers, beside
              2 · S · d · bytes · layers (LV-XAttn, 2502.02406, section 4.3; d = key/value heads x head size)
    peak      temporaries of the compiled step, the same way. A layer at work needs its keys and values in
              both cases, which of one or two layers leaves little to save, unless keys are streamed
              (key_block > 0): then neither they nor their gradients are ever whole
    longest   the most features whose program needs no more than a budget of arguments and temporaries,
              without and with recomputation. Memory is a straight line in S: two programs give it, and the
              found length is compiled as well
    flops     matrix products in the traced program with and without, at the shapes of the paper's families
              and the average of Video-MME (2,386 frames, 5,514 tokens). Causal loops whose length is traced
              count once, which makes the step look smaller and the overhead larger than it is
"""

import argparse
import csv
import functools
import math
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOKENS = 64
# d = 256 as in a twelfth of a large model: what grows with S is far above all else.
SHAPE = dict(
    vocab_size=64, vision_vocab_size=0, width=256, ffn=512, heads=4, kv_heads=4, head_dim=64, cross_ffn=512,
    feature_width=256, frame_tokens=64, remat="nothing_saveable", attention_block=256,
)  # fmt: skip
VIDEO_MME = dict(tokens=5514, frames=2386)
COLUMNS = [
    *("question", "size", "layers", "devices", "S", "key_block", "budget", "without", "with", "saved"),
    *("formula", "ratio", "commit", "command"),
]
KEY = COLUMNS[:7]


def program_of(config, tokens: int, frames: int):
    """(model, shapes of parameters, shapes of a batch of one row)."""
    import jax
    import numpy as np

    from lwm.models.cross_attention import CrossAttentionLM

    model = CrossAttentionLM(config)
    kinds = dict(weights=np.float32, is_vision=np.bool_, targets_are_vision=np.bool_)
    names = ("tokens", "targets", "weights", "segments", "positions", "media", *kinds)
    batch = {name: jax.ShapeDtypeStruct((1, tokens), kinds.get(name, np.int32)) for name in names}
    shape = (1, frames, config.frame_tokens, config.feature_width)
    batch["features"] = jax.ShapeDtypeStruct(shape, config.dtype)
    batch["frame_ids"] = jax.ShapeDtypeStruct((1, frames), np.int32)
    params = jax.eval_shape(functools.partial(model.init, jax.random.key(0)), batch)
    return model, params, batch


def gradient(model):
    import jax

    return jax.value_and_grad(lambda params, batch: model.loss(params, batch, None)[0])


def residuals(model):
    import jax

    return lambda params, batch: jax.vjp(lambda params: model.loss(params, batch, None)[0], params)


@functools.cache
def needed(layers: int, frames: int, devices: int = 1, forward: bool = False, **changes) -> dict:
    """Bytes of a device that a step needs, or that its forward pass leaves: {"peak", "arguments", "kept"}."""
    import jax

    from lwm.models.cross_attention import CrossAttentionConfig
    from lwm.parallel.mesh import make_mesh
    from lwm.parallel.sharding import batch_shardings, shardings
    from lwm.training.state import with_shardings

    config = CrossAttentionConfig(**SHAPE | dict(layers=layers, cross_layers=layers) | changes)
    model, params, batch = program_of(config, TOKENS, frames)
    mesh = make_mesh(seq=devices, devices=jax.devices()[:devices])
    params = with_shardings(params, shardings(model.PARTITION_RULES, params, mesh))
    batch = with_shardings(batch, batch_shardings(batch, mesh))
    step = residuals(model) if forward else gradient(model)
    with jax.set_mesh(mesh):
        memory = jax.jit(step).lower(params, batch).compile().memory_analysis()
    return {
        "peak": memory.temp_size_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "kept": memory.output_size_in_bytes,
    }


def saving(question: str, layers: int, frames: int, devices: int, key_block: int) -> dict:
    """A row: bytes without and with recomputation."""
    forward = question == "kept"
    without = needed(layers, frames, devices, forward, recompute=False)[question]
    kept = needed(layers, frames, devices, forward, recompute=True, key_block=key_block)[question]
    S, d = frames * SHAPE["frame_tokens"] // devices, SHAPE["kv_heads"] * SHAPE["head_dim"]
    formula = 2 * S * d * 4 * layers
    return {
        "question": question,
        "layers": layers,
        "devices": devices,
        "S": S * devices,
        "key_block": key_block,
        "without": without,
        "with": kept,
        "saved": without - kept,
        "formula": formula,
        "ratio": round((without - kept) / formula, 4),
    }


def longest(layers: int, devices: int, key_block: int, budget: int) -> dict:
    """A row: the most features in a budget of bytes a device, without and with recomputation."""
    found = {}
    for name, changes in (("without", dict(recompute=False)), ("with", dict(key_block=key_block))):

        def total(frames, changes=changes):
            memory = needed(layers, frames, devices, **changes)
            return memory["peak"] + memory["arguments"]

        near, far = 512 * devices, 1024 * devices
        slope = (total(far) - total(near)) / (far - near)
        frames = int(near + (budget - total(near)) / slope) // devices * devices
        while (over := total(frames) - budget) > 0:
            frames -= math.ceil(over / slope / devices) * devices
        found[name] = frames * SHAPE["frame_tokens"]
    return {
        "question": "longest",
        "layers": layers,
        "devices": devices,
        "key_block": key_block,
        "budget": budget,
        **found,
        "ratio": round(found["with"] / found["without"], 4),
    }


def flops(size: str) -> dict:
    """A row: matrix products of a training step at the shapes of a family, counted in the traced program."""
    import dataclasses

    import jax

    from lwm.models.cross_attention import SIZES, CrossAttentionConfig

    config = CrossAttentionConfig(**SIZES[size] | dict(encoder_layers=0, resampler_layers=0, remat="none"))
    counted = {}
    for name, recompute in (("without", False), ("with", True)):
        model, params, batch = program_of(dataclasses.replace(config, recompute=recompute), **VIDEO_MME)
        counted[name] = products(jax.make_jaxpr(gradient(model))(params, batch).jaxpr)
    return {
        "question": "flops",
        "layers": config.cross_layers,
        "devices": 1,
        "S": VIDEO_MME["frames"] * config.frame_tokens,
        "size": size,
        **{name: f"{count:.6e}" for name, count in counted.items()},
        "ratio": round(counted["with"] / counted["without"], 4),
    }


def products(jaxpr) -> float:
    """Floating-point operations of the matrix products in a traced program.

    A scan counts as often as it runs, of the branches of a condition the costliest one.
    """
    from jax.extend.core import jaxprs_in_params

    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            inner = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * inner * math.prod(eqn.outvars[0].aval.shape)
            continue
        parts = [products(part) for part in jaxprs_in_params(eqn.params)]
        if eqn.primitive.name == "cond":
            total += max(parts)
        else:
            total += eqn.params.get("length", 1) * sum(parts) if eqn.primitive.name == "scan" else sum(parts)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", default="kept,peak,longest,flops", help="comma-separated")
    parser.add_argument("--layers", default="1,2,4,8", help="cross-attention layers, comma-separated")
    parser.add_argument("--devices", type=int, default=1, help='size of "seq"')
    parser.add_argument("--frames", type=int, default=512, help="of 64 features each, for `kept` and `peak`")
    parser.add_argument("--key_blocks", default="0,4096", help="with recomputation, comma-separated")
    parser.add_argument("--budget", type=int, default=2**30, help="bytes a device, for `longest`")
    parser.add_argument("--sizes", default="llama3v_11b,owl3_7b,owl3_2b,owl3_1b,flamingo_9b,flamingo_3b")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("experiments/results/xattn_memory.csv")
    )
    flags = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from xattn_curves import commit, start, write

    start(flags.devices)
    made = {"commit": commit(), "command": "python " + " ".join(sys.argv)}
    rows, asked = [], set(flags.questions.split(","))
    if flags.output.exists():
        with flags.output.open(newline="") as file:
            rows = list(csv.DictReader(file))

    def add(row):
        print(row, flush=True)
        row = {name: str(value) for name, value in (dict.fromkeys(COLUMNS, "") | row | made).items()}
        rows[:] = [other for other in rows if any(other[name] != row[name] for name in KEY)] + [row]
        write(flags.output, rows)

    for key_block in map(int, flags.key_blocks.split(",")):
        for layers in map(int, flags.layers.split(",")):
            for question in ("kept", "peak"):
                if question in asked:
                    add(saving(question, layers, flags.frames, flags.devices, key_block))
            if "longest" in asked:
                add(longest(layers, flags.devices, key_block, flags.budget))
    for size in flags.sizes.split(",") if "flops" in asked else ():
        add(flops(size))


if __name__ == "__main__":
    main()
