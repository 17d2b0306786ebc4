"""What a training step must not hold, whatever remat and mesh: seen in the program before it is compiled."""

import math
import re

import jax
import pytest

from lwm.models.transformer import LWM, TransformerConfig
from lwm.parallel.sharding import batch_shardings
from lwm.training.inputs import batch_shapes
from lwm.training.stages import Axes, Stage
from lwm.training.state import param_shapes, with_shardings

BLOCK, SEQ = 24, 4
LENGTH = 2 * SEQ * BLOCK * 3


@pytest.mark.parametrize("remat", ["none", "nothing_saveable", "attention_saveable"])
@pytest.mark.parametrize("seq", [1, SEQ])
def test_gradient_holds_no_masks_or_scores_of_more_than_one_tile(mesh_of, remat, seq):
    config = TransformerConfig(
        vocab_size=64, vision_vocab_size=0, width=16, ffn=32, layers=3, heads=2, kv_heads=1, head_dim=8,
        remat=remat, attention_block=BLOCK,
    )  # fmt: skip
    model, mesh = LWM(config), mesh_of(seq=seq)
    stage = Stage("s", 1, 1e-3, Axes(seq=seq), context_length=LENGTH, batch_tokens=LENGTH)
    batch = batch_shapes(stage)
    params = param_shapes(model, batch, mesh)
    batch = with_shardings(batch, batch_shardings(batch, mesh))
    with jax.set_mesh(mesh):
        gradient = jax.grad(lambda params, batch: model.loss(params, batch, None)[0])
        text = jax.jit(gradient).lower(params, batch).as_text()
    shapes = {tuple(map(int, dims.split("x"))) for dims in re.findall(r"tensor<([\dx]+)x\w+>", text)}
    tiles = [dims for dims in shapes if dims[-2:] in ((BLOCK, BLOCK), (2 * BLOCK, BLOCK), (BLOCK, 2 * BLOCK))]
    assert tiles
    # A tile of a hop has two rows and one head that two queries share; more would be tiles side by side.
    assert max(math.prod(dims) for dims in tiles) <= 2 * 2 * BLOCK * BLOCK
