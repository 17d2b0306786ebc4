"""FLOPs of a training step by formula, and the least that has to lie in the memory of a device."""

import math
from typing import Any, NamedTuple

import jax

from lwm.compilation.seen_flops import Seen, seen_again, seen_flops, seen_parts
from lwm.compilation.task_flops import task_flops
from lwm.scaling.dream_flops import dream_flops
from lwm.scaling.flops import forward, recomputed_flops
from lwm.scaling.vqgan_flops import vqgan_training_flops
from lwm.training.program import Program


class Flops(NamedTuple):
    """Of one optimizer step, on all devices together.

    Attributes:
      products: 6 · tokens · parameters of matrix products, the embeddings left out as they are only read; of
        other models than language models all that is not in the next lines.
      attention: causal scores and values, `lwm.scaling.flops`. Packed documents need less; this counts
        sequences as whole.
      again: what rematerialisation computes twice.
      seen: of a model that looks at frames, all that this takes.
    """

    products: float
    attention: float
    again: float
    seen: Seen | None = None

    @property
    def model(self) -> float:
        """What MFU counts ("PaLM", 2204.02311, appendix B): no rematerialisation."""
        return self.products + self.attention + (self.seen.total if self.seen else 0.0)

    @property
    def executed(self) -> float:
        return self.model + self.again


def train_flops(program: Program) -> Flops:
    """Of a step of a program, by the formula of its model."""
    config, stage = program.model.config, program.stage
    if stage.of_tasks:
        rows = {kind: own["task"].shape[0] for kind, own in program.batch.items()}
        ways = program.mesh.shape["data"] * program.mesh.shape["fsdp"] * stage.accumulate
        own = task_flops(config, rows, ways)
        return Flops(own.products, own.attention, 0.0)
    if stage.of_images:
        return Flops(vqgan_training_flops(config, stage.rows), 0.0, 0.0)
    T, tokens = stage.context_length, stage.rows * stage.context_length
    if stage.of_pages:
        own = dream_flops(config, stage.rows, T, stage.row_frames(program.mesh.shape["seq"]))
        return Flops(own.model - own.attention, own.attention, own.again)
    own = forward(config, T)
    seen = seen_flops(config, stage) if stage.of_clips else None
    again = recomputed_flops(config, tokens, own) + (seen_again(config, seen) if seen else 0.0)
    return Flops(6.0 * tokens * (own.layers + own.heads), 6.0 * tokens * own.attention, again, seen)


def parameters(program: Program) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(program.state.params))


def held(tree: Any) -> int:
    """Bytes of one device of a tree of `ShapeDtypeStruct`s with shardings; keys are not counted."""

    def one(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 0
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def parts(program: Program) -> list[tuple[str, float, str]]:
    """(what, bytes on a device, what makes it smaller) of what a step has to hold, the largest first.

    From shapes alone, so that it can be said of a step that the compiler refuses.
    """
    found = [
        ("parameters and moments", held(program.state), "more devices on fsdp, seq and tensor together"),
        ("gradients", held(program.state.params), "more devices on fsdp, seq and tensor together"),
    ]
    config, stage, mesh = program.model.config, program.stage, program.mesh.shape
    if not hasattr(config, "kv_heads"):
        return sorted(found, key=lambda part: -part[1])
    rows = stage.rows / (mesh["data"] * mesh["fsdp"] * stage.accumulate)
    tokens, tensor = rows * stage.context_length / mesh["seq"], mesh["tensor"]
    width = 2 if config.dtype == "bfloat16" else 4
    cut = tensor if config.width % tensor == 0 else 1
    fewer = "accumulate=2 or more" if rows > 1 else "a larger seq"
    layer = tokens * config.width / cut * width
    found.append((f"inputs of {config.layers} layers", config.layers * layer, f"{fewer}, or remat='offload'"))
    if config.remat == "none":
        inner = tokens * (4 * config.heads * config.head_dim + 3 * config.ffn) / tensor * width
        found.append(("what layers keep", config.layers * inner, "remat='nothing_saveable'"))
    if config.remat == "attention_saveable":
        more = tokens * config.heads * config.head_dim / tensor * width * config.layers
        found.append(("results of attention", more, "remat='nothing_saveable'"))
    ways = (mesh["fsdp"] * mesh["seq"]) if mesh["fsdp"] * mesh["seq"] > 1 else 0
    one = config.width * (2 * config.head_dim * (config.heads + config.kv_heads) + 3 * config.ffn)
    found.append(("weights of one layer, gathered", 2 * one / tensor * width * bool(ways), "a larger tensor"))
    found.append(("activations of one layer", 8 * tokens * config.width * width, fewer))
    hidden = min((config.ffn_chunk or tokens) * rows, tokens) * 3 * config.ffn / tensor * width
    found.append(("hidden of the feed-forward layer", hidden, "ffn_chunk=1024"))
    words = max(config.vocab_size, config.vision_vocab_size)
    logits = min((config.loss_chunk or tokens) * rows, tokens) * words / tensor * 8
    found.append(("logits and their gradients", logits, "loss_chunk=1024"))
    found += seen_parts(config, stage, mesh) if stage.of_clips else []
    return sorted(found, key=lambda part: -part[1])
