r"""Which families of LV-XAttn fit a pod with 15M visual tokens, and what a step sends: asked of the compiler.

    python experiments/benchmarks/xattn_families.py --output=experiments/results/xattn_families.csv
    python experiments/benchmarks/xattn_families.py --sizes=owl3_7b --topologies=v5p:2x2x4

The training step of experiments/lv_xattn_families.py, compiled for a pod by the TPU compiler, without a TPU:
queries that travel (LV-XAttn, 2502.02406) beside a ring of keys. `needed_gib`, of which `arguments_gib` are
the parameters, their moments and the batch, is the most that is alive at once on a device, `spare_gib` what
is left; of the refused ones it is what the compiler asks for. By formula are `features_gib`, y on a device,
and `keys_gib`, keys and values of one cross-attention layer there, which without `recompute` every layer
keeps. `sent_gib`, `exposed_gib`: what a device sends in a step, and what of it no work hides. `mfu_bound` is
a bound from published rates (lwm/compilation/roofline.py), nothing was timed. Rows that are in the table are
not made again. Needs `pip install '.[tpu]'`.
"""

import argparse
import importlib.metadata
import itertools
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = [
    *("size", "way", "recompute", "topology", "devices", "frames", "visual_tokens", "tokens", "fits"),
    *("needed_gib", "available_gib", "spare_gib", "arguments_gib", "temporaries_gib", "features_gib"),
    *("keys_gib", "parameters", "model_flops", "sent_gib", "exposed_gib", "bound_seconds", "bound_by"),
    *("mfu_bound", "lowered_s", "compiled_s", "versions", "commit", "command"),
]
KEY = ("size", "way", "recompute", "topology")
GIB = 2**30


def shapes(size: str, topology: str) -> dict:
    """What of a row is known before anything is compiled."""
    from experiments import lv_xattn_families
    from lwm.models.cross_sizes import SIZES

    frames, questions, tokens = lv_xattn_families.ROWS[size]
    devices = math.prod(int(side) for side in topology.split(":")[1].split(",")[0].split("x"))
    shape = SIZES[size]
    visual_tokens = frames * questions * shape["frame_tokens"]
    held = visual_tokens / devices * 2 / GIB  # of one number a feature, in bfloat16
    return {
        "devices": devices,
        "frames": frames * questions,
        "visual_tokens": visual_tokens,
        "tokens": tokens,
        "features_gib": round(held * shape["feature_width"], 3),
        "keys_gib": round(held * 2 * shape["kv_heads"] * shape["head_dim"], 3),
    }


def command(asked: dict) -> str:
    """What makes a row."""
    config = f"experiments/lv_xattn_families.py:{asked['size']},way={asked['way']}"
    config += "" if asked["recompute"] == "True" else ",recompute=false"
    return f"python -m lwm.compile --config={config} --topology={asked['topology']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="llama3v_11b,owl3_7b,flamingo_9b", help="comma-separated")
    parser.add_argument("--ways", default="rotate_queries,rotate_keys", help="comma-separated")
    parser.add_argument("--recompute", default="True", help="True, False or both, comma-separated")
    parser.add_argument("--topologies", default="v5p:4x4x4", help="space-separated names of pods")
    parser.add_argument(
        "--output", type=pathlib.Path, default=ROOT / "experiments" / "results" / "xattn_families.csv"
    )
    flags = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "experiments" / "benchmarks")]
    import pods

    from experiments import sweeps

    versions = " ".join(f"{name}=={importlib.metadata.version(name)}" for name in ("jax", "libtpu"))
    table, split = sweeps.Table(flags.output, COLUMNS, KEY), flags.topologies.split()
    chosen = itertools.product(
        flags.sizes.split(","), split, flags.recompute.split(","), flags.ways.split(",")
    )
    for size, topology, recompute, way in chosen:
        asked = {"size": size, "way": way, "recompute": recompute, "topology": topology}
        if table.has(**asked):
            continue
        found = pods.measure(command(asked))
        spare = found["available_gib"] - found["needed_gib"]
        row = asked | shapes(size, topology) | {name: found[name] for name in found if name in COLUMNS}
        row |= {"spare_gib": round(spare, 3), "versions": versions, "commit": sweeps.commit()}
        table.add(row | {"command": command(asked)})


if __name__ == "__main__":
    main()
