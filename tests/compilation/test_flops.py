"""FLOPs of a training step by formula, held against what the compiler counts in the step itself."""

import csv
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from lwm.compilation.flops import parts, train_flops
from lwm.compilation.seen_flops import seen_again, seen_flops
from lwm.models.cross_sizes import SIZES, CrossAttentionConfig
from lwm.scaling.dream_flops import dream_flops
from lwm.scaling.vqgan_flops import vqgan_training_flops
from lwm.systems import build_model
from lwm.training.experiment import build_experiment
from lwm.training.program import make_program
from lwm.training.stages import Axes, Stage

TABLE = Path(__file__).resolve().parents[2] / "experiments" / "results" / "xattn_memory.csv"

# Wide enough for matrix products to be nearly all of it, and a head as wide as a block of scores: what the
# softmax takes is then below two per cent. Every loop has one turn, as the compiler counts bodies once.
LANGUAGE = dict(
    vocab_size=384, vision_vocab_size=0, width=256, ffn=640, layers=2, heads=2, kv_heads=1, head_dim=256,
    dtype="float32", remat="none", scan=False, attention_block=512,
)  # fmt: skip
CROSS = LANGUAGE | dict(
    cross_layers=2, cross_ffn=320, feature_width=256, frame_tokens=16, recompute=False, media="all"
)
ENCODER = dict(resolution=16, patch=4, encoder_layers=2, encoder_width=256, encoder_ffn=512, encoder_heads=2)


# What is counted is not run, and need not be fast.


def program(name, model, frames, **stage):
    """The program of a stage of one row of 128 tokens on one device."""
    stage = dict(context_length=128, batch_tokens=128, steps=1, learning_rate=1e-3, vision_weight=0.0) | stage
    stage |= dict(mesh={}, mixture={"odd": 1.0} if frames else {"text": 1.0}, frames=frames)
    config = {"experiment": "x", "model": {"name": name} | model, "stages": {"only": stage}}
    experiment = build_experiment(config)

    def build(stage):
        return build_model(experiment.model, dataclasses.asdict(stage))

    return make_program(experiment, experiment.stages["only"], build, jax.devices()[:1])


def lowered(program):
    """Loss and gradient."""
    gradient = jax.value_and_grad(lambda params, batch: program.model.loss(params, batch, None)[0])
    return jax.jit(gradient).lower(program.state.params, program.batch)


def by_formula(program):
    """With what one block of scores does and the formula leaves out: the half that a causal mask hides, and
    scores that the way back makes once more, a sixth of forward and backward together."""
    flops = train_flops(program)
    causal = 2 * flops.attention * 7 / 6 - flops.attention
    return flops.executed + causal + (flops.seen.attention / 6 if flops.seen else 0)


@pytest.mark.parametrize(
    ("name", "model", "frames"),
    [
        pytest.param("lwm", LANGUAGE, 0, id="text", marks=pytest.mark.slow),
        pytest.param("cross_attention", CROSS, 16, id="stored features", marks=pytest.mark.slow),
        pytest.param("cross_attention", CROSS | ENCODER, 16, id="encoder", marks=pytest.mark.slow),
        pytest.param(
            "cross_attention",
            CROSS | ENCODER | dict(frame_tokens=8, resampler_layers=2),
            16,
            id="encoder and resampler",
        ),
    ],
)
def test_formula_is_within_two_per_cent_of_the_compiler(name, model, frames):
    own = program(name, model, frames)
    counted = lowered(own).compile().cost_analysis()["flops"]
    assert by_formula(own) == pytest.approx(counted, rel=0.02)


@pytest.mark.slow
def test_recomputation_takes_what_the_formula_says():
    """Counted before compilation: layers that are not in a loop are merged with what they compute again."""
    plain, again = (program("cross_attention", CROSS | dict(recompute=own), 16) for own in (False, True))
    more = lowered(again).cost_analysis()["flops"] - lowered(plain).cost_analysis()["flops"]
    assert train_flops(plain).again == 0
    assert train_flops(again).again == pytest.approx(more, rel=0.02)


def test_text_sees_fewer_frames_at_its_beginning():
    """Pairs of a clip: "earlier" leaves half of the square that dots and their own frames make."""
    whole, earlier = (
        train_flops(program("cross_attention", CROSS | dict(media=media), 16)).seen
        for media in ("all", "earlier")
    )
    assert earlier.attention / whole.attention == pytest.approx(1 - 16 / 2 / 128)
    assert earlier._replace(attention=0) == whole._replace(attention=0)


def test_a_step_that_does_not_fit_is_told_what_is_seen():
    kept, again = (
        {what: size for what, size, _ in parts(program("cross_attention", CROSS | dict(recompute=own), 16))}
        for own in (False, True)
    )
    assert kept["keys and values that layers keep"] == 2 * 2 * 256 * 256 * 4
    assert again["keys and values that layers keep"] == 0
    assert again["features of frames and their gradient"] == 3 * 256 * 256 * 4


def test_recomputation_of_the_families_is_that_of_their_traced_programs():
    """The rows that xattn_memory.py counted in whole programs, at the average of Video-MME."""
    rows = [row for row in csv.DictReader(TABLE.open()) if row["question"] == "flops"]
    assert len(rows) == 6
    about = dict(steps=1, learning_rate=1e-3, mesh=Axes(), mixture={"count": 1.0}, frames=2386)
    stage = Stage(name="s", context_length=5514, batch_tokens=5514, **about)
    for row in rows:
        changes = dict(encoder_layers=0, resampler_layers=0, remat="none")
        config = CrossAttentionConfig(**SIZES[row["size"]] | changes)
        more = float(row["with"]) - float(row["without"])
        assert seen_again(config, seen_flops(config, stage)) == pytest.approx(more, rel=1e-3), row["size"]


def test_models_of_pictures_report_what_their_own_formulas_say():
    """tests/scaling holds those against the compiler. Of 3 pictures a row, 4 are computed on two devices."""
    about, mesh = dict(name="s", steps=1, learning_rate=1e-3, mesh=Axes()), {"seq": 2}
    frames = Stage(**about, context_length=0, batch_size=6, mixture={})
    pages = Stage(**about, context_length=64, batch_tokens=128, mixture={"albums": 1.0}, images=3)

    def reported(name, stage):
        model = build_model({"name": name, "size": "tiny" if name == "vqgan" else "paper"})
        return model.config, train_flops(
            SimpleNamespace(model=model, stage=stage, mesh=SimpleNamespace(shape=mesh))
        )

    config, found = reported("vqgan", frames)
    assert found.executed == vqgan_training_flops(config, 6)
    config, found = reported("dreamllm", pages)
    own = dream_flops(config, 2, 64, 4)
    assert found.model == pytest.approx(own.model) and found.again == own.again > 0
    assert found.attention == own.attention
