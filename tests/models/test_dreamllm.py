"""DreamLLM: who gets a gradient from which loss, what is a label, whose queries make which picture."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.data.interleaved_pieces import Marks, pieces_of
from lwm.data.interleaved_records import PageRecord
from lwm.data.interleaved_rows import Room, nothing, page_row
from lwm.errors import UserError
from lwm.models.dreamllm import SIZES, DreamConfig, DreamLLM
from lwm.models.visual_encoder import VisualEncoder
from lwm.parallel.layout import zigzag_order
from lwm.parallel.sharding import batch_shardings, shardings
from lwm.systems import build_model

T, PICTURES, RESOLUTION = 48, 4, 8
KEY = 23  # with it the condition of the first picture of all is dropped, and no other
LATER = ("projector", "language", "queries", "condition")  # what I-GPT trains
# Few layers, as compiling is what takes the time.
PARTS = {
    "language": dict(layers=1, remat="none", attention_block=16),
    "vision": dict(remat="none"),
    "decoder": dict(multipliers=(1,), attention=(True,), text_vocab_size=0, drop_rate=0.3),
}


def model_of(**changes):
    sizes = SIZES["debug"]
    parts = {name: sizes[name] | own for name, own in PARTS.items()}
    return DreamLLM(DreamConfig(**sizes | parts | {"trains": LATER} | changes))


MODEL = model_of()
MARKS = Marks(1, 2, MODEL.config.dream_start, MODEL.config.queries, MODEL.config.vision.patches)


def page(seed, texts, positions):
    rng = np.random.default_rng(seed)
    return PageRecord(
        name="page",
        tokens=rng.integers(3, 259, sum(texts)).astype(np.int32),
        lengths=np.asarray(texts, np.int32),
        learned=np.ones(len(texts), bool),
        images=rng.integers(0, 256, (len(positions), RESOLUTION, RESOLUTION, 3), dtype=np.uint8),
        positions=np.asarray(positions, np.int32),
    )


def batch_of(pages=None):
    """Two rows: a document with two pictures and one that asks about its picture; one with one picture."""
    room = Room(T - nothing(MARKS, 0).example.slots, nothing(MARKS, 0).example.slots, PICTURES, PICTURES, 0)
    pages = pages or [[(page(0, [3, 2], [1, 2]), "joint"), (page(1, [2], [0]), "comprehension")]] + [
        [(page(2, [4, 1], [1]), "joint")]
    ]
    rows = []
    for own in pages:
        pieces = [pieces_of(one, form, MARKS, slots=room.slots, images=PICTURES)[0] for one, form in own]
        rows.append(page_row(pieces, MARKS, room, RESOLUTION))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def captioned(batch):
    """The batch with four random ids as the caption of each picture."""
    words = np.random.default_rng(0).integers(3, 259, (*batch["frame_weights"].shape, 4)).astype(np.int32)
    return batch | {"captions": np.where(batch["frame_weights"][..., None] > 0, words, 0)}


@functools.cache
def params_of(model):
    """Random numbers, none of them 0, without the time that compiling `init` takes."""
    batch = captioned(batch_of())
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0), batch)

    def draw(path, leaf):
        if str(path).endswith("scale')]"):
            return np.ones(leaf.shape, np.float32)
        return rng.normal(0, max(math.prod(leaf.shape[:-1]), 9) ** -0.5, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


@functools.cache
def step_of(model):
    """Compiled (params, batch) -> metrics, gradients of the losses of language and of denoising."""

    def step(params, batch):
        def losses(params):
            metrics = model.loss(params, batch, jax.random.key(KEY))[1]
            return (metrics["text_loss"], metrics["dream_loss"]), metrics

        _, pull, metrics = jax.vjp(losses, params, has_aux=True)
        one, none = jnp.float32(1), jnp.float32(0)
        return metrics, pull((one, none))[0], pull((none, one))[0]

    return jax.jit(step)


@pytest.fixture(scope="module")
def alone():
    return jax.device_get(step_of(MODEL)(params_of(MODEL), batch_of()))


def reached(gradient):
    """Parts of which every parameter has a gradient that is not 0, and parts of which one has."""
    some = {name: [bool(np.any(leaf)) for leaf in jax.tree.leaves(own)] for name, own in gradient.items()}
    return {name for name, own in some.items() if all(own)}, {name for name, own in some.items() if any(own)}


def test_denoising_reaches_what_dreams_and_nothing_that_is_frozen(alone):
    gradient = alone[2] | {"language": dict(alone[2]["language"])}
    assert not np.any(gradient["language"].pop("lm_head")["kernel"])
    assert reached(gradient) == (set(LATER), set(LATER))


def test_language_reaches_what_reads_and_only_past_queries(alone):
    _, gradient, _ = alone
    # Text behind a picture looks at its queries; the condition stands behind them, beside the text.
    assert reached(gradient) == ({"projector", "language", "queries"},) * 2


def test_metrics_are_means_over_documents(alone):
    metrics, _, _ = alone
    assert metrics["denominator"] == 3 and metrics["count_noise"] == 2
    labels = [3 + 2 + 2 + 1, 2 + 1, 4 + 1 + 1 + 1]  # texts, dreams, the end
    assert metrics["text_tokens"] == sum(labels)
    loss = metrics["text_loss"] + 10 * metrics["dream_loss"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)


def test_labels_are_texts_and_dream_start_alone(alone):
    """Other labels in place of those of queries, patches and delimiters change nothing; dream_start does."""
    batch = batch_of()
    dream_start = MODEL.config.dream_start
    special = (batch["targets"] > dream_start) | (batch["targets"] == 0)  # places and padding are 0
    begins = (batch["targets"] == dream_start) & (batch["segments"] <= np.array([[2], [1]]))
    assert special.sum() > 40 and begins.sum() == 3

    def losses(where):
        changed = batch | {"targets": np.where(where, 77, batch["targets"]).astype(np.int32)}
        metrics = step_of(MODEL)(params_of(MODEL), changed)[0]
        return float(metrics["text_loss"]), float(metrics["dream_loss"])

    metrics = alone[0]
    before = float(metrics["text_loss"]), float(metrics["dream_loss"])
    assert losses(special) == before
    text, dream = losses(begins)
    assert abs(text - before[0]) > 1e-3 and dream == before[1]


def test_places_without_a_picture_and_padding_are_seen_by_nobody(alone):
    batch = batch_of()
    used = np.zeros(batch["frames"].shape[:2], bool)
    used[0, :3] = used[1, :1] = True
    noise = np.random.default_rng(1).integers(0, 256, batch["frames"].shape, dtype=np.uint8)
    frames = np.where(used[..., None, None, None], batch["frames"], noise)
    metrics, *gradients = jax.device_get(step_of(MODEL)(params_of(MODEL), batch | {"frames": frames}))
    for name in ("text_loss", "dream_loss"):
        np.testing.assert_allclose(metrics[name], alone[0][name], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, list(alone[1:]))


@functools.cache
def reader():
    """Compiled (params, batch) -> inputs and states of the language model, conditions, patches seen."""

    def read(network, batch):
        seen = network.seen(batch["frames"])
        x = network.laid_out(batch["tokens"], seen, batch["places"])
        hidden = network.language.trunk(x, batch["positions"], batch["segments"])[0]
        return x, hidden, network.dreams(hidden, batch["places"], PICTURES + 1), seen

    def run(params, batch):
        network = {name: own for name, own in params.items() if name != "decoder"}
        return MODEL.network.apply({"params": network}, batch, method=read)

    return jax.jit(run)


def test_pictures_and_queries_stand_at_their_places_and_come_back_in_order():
    params, batch = params_of(MODEL), batch_of()
    x, hidden, dreams, seen = jax.device_get(reader()(params, batch))
    P, Q = MARKS.patches, MARKS.queries
    conditions = np.zeros((2, PICTURES + 1, Q, 8))
    there = np.zeros((2, PICTURES + 1, Q), bool)
    for b, t in np.ndindex(batch["places"].shape):
        picture, part = divmod(int(batch["places"][b, t]) - 1, P + Q)
        if picture < 0:
            expected = params["language"]["wte"]["embedding"][batch["tokens"][b, t]]
        elif part < P:
            expected = seen[b, picture * P + part]
        else:
            expected = params["queries"][part - P]
            conditions[b, picture, part - P] = hidden[b, t] @ params["condition"]["kernel"]
            there[b, picture, part - P] = True
        np.testing.assert_allclose(x[b, t], expected, rtol=1e-5)
    np.testing.assert_array_equal(dreams.there_BS, there.reshape(-1, Q))
    assert there[:, :, 0].tolist() == [[True, True, False, False, True], [True, False, False, False, True]]
    vectors = np.where(there[..., None], conditions, 0).reshape(-1, Q, 8)
    np.testing.assert_allclose(dreams.vectors_BSC, vectors, atol=1e-5)
    # What stands for no condition is the same in every row, whatever else is in it.
    by_row = dreams.vectors_BSC.reshape(2, PICTURES + 1, Q, 8)
    np.testing.assert_allclose(by_row[0, -1], by_row[1, -1], atol=1e-5)


def test_a_dream_knows_what_came_before_it_alone():
    """Of text, and of pictures seen."""
    pages = [[(page(0, [3, 2, 2], [1, 2]), "joint")], [(page(2, [4, 1], [1]), "joint")]]
    before = reader()(params_of(MODEL), batch_of(pages))[2].vectors_BSC.reshape(2, PICTURES + 1, -1)

    def changed(seed, **fields):
        own = pages[0][0][0]
        other = page(seed, [3, 2, 2], [1, 2])
        own = own._replace(
            **{name: take(getattr(own, name), getattr(other, name)) for name, take in fields.items()}
        )
        after = reader()(params_of(MODEL), batch_of([[(own, "joint")], pages[1]]))[2].vectors_BSC
        differs = np.abs(after.reshape(before.shape) - before).max(axis=-1) > 1e-6
        return differs[0, :2].tolist(), bool(differs[0, 2:].any() or differs[1].any())

    first_text = {"tokens": lambda mine, other: np.where(np.arange(7) < 3, other, mine)}
    last_text = {"tokens": lambda mine, other: np.where(np.arange(7) >= 5, other, mine)}
    first_picture = {"images": lambda mine, other: np.stack([other[0], mine[1]])}
    assert changed(9, **first_text) == ([True, True], False)
    assert changed(9, **last_text) == ([False, False], False)
    assert changed(9, **first_picture) == ([False, True], False)


@pytest.mark.slow
def test_denoising_is_that_of_the_decoder_with_these_conditions(alone):
    params, batch = params_of(MODEL), batch_of()
    dreams = reader()(params, batch)[2]
    by_row = jax.tree.map(lambda x: x.reshape(2, PICTURES + 1, *x.shape[1:]), dreams)
    given = jax.tree.map(lambda x: x[:, :-1].reshape(-1, *x.shape[2:]), by_row)
    without = jax.tree.map(lambda x: x[:, -1].repeat(PICTURES, axis=0), by_row)
    loss, metrics = jax.jit(MODEL.decoder.denoising_loss)(
        params["decoder"],
        batch["frames"].reshape(-1, 8, 8, 3) / 127.5 - 1,
        given,
        jax.random.key(KEY),
        unconditional=without,
        weights_B=np.array([0.5, 0.5, 0, 0, 1, 0, 0, 0], np.float32),
    )
    np.testing.assert_allclose(alone[0]["loss_noise"], metrics["denoising"], rtol=1e-4)
    np.testing.assert_allclose(alone[0]["dream_loss"], loss * 2 / 3, rtol=1e-4)


@pytest.mark.slow
def test_alignment_reaches_what_dreams_and_leaves_the_text_encoder_as_it_is():
    decoder = SIZES["debug"]["decoder"] | PARTS["decoder"] | {"text_vocab_size": 264}
    model = model_of(decoder=decoder, text_weight=0.0, align_weight=5.0)
    batch = captioned(batch_of())

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_of(params):
        metrics = model.loss(params, batch, jax.random.key(KEY))[1]
        return metrics["align_loss"], metrics

    gradient, metrics = jax.device_get(gradient_of(params_of(model)))
    assert reached(gradient)[1] == set(LATER)
    assert 0 < metrics["align_loss"] < 2
    loss = 10 * metrics["dream_loss"] + 5 * metrics["align_loss"]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)


def test_the_eyes_stop_before_the_last_layer():
    eyes, frames = VisualEncoder(MODEL.config.vision), jnp.zeros((1, 2, 8, 8, 3), jnp.uint8)
    seen, params = jax.eval_shape(eyes.init_with_output, jax.random.key(0), frames)
    assert seen.shape == (1, 2, 4, 16) and set(params["params"]) == {"patches", "positions", "blocks"}
    assert params["params"]["blocks"]["ffn"]["w1"].shape[0] == MODEL.config.vision.encoder_layers - 1
    whole, params = jax.eval_shape(
        functools.partial(eyes.init_with_output, whole=True), jax.random.key(0), frames
    )
    assert whole.shape == (1, 2, 16) and {"last", "norm"} < set(params["params"])


@pytest.mark.slow
@pytest.mark.parametrize("axes", [dict(data=2, tensor=2, seq=2), dict(fsdp=2, seq=4), dict(seq=4)], ids=str)
def test_a_step_on_a_mesh_is_that_of_one_device(axes, mesh_of, alone):
    mesh = mesh_of(**axes)
    order = zigzag_order(T, mesh.shape["seq"])
    batch = {name: x if "frame" in name else x[:, order] for name, x in batch_of().items()}
    with jax.set_mesh(mesh):
        places = shardings(MODEL.PARTITION_RULES, params_of(MODEL), mesh), batch_shardings(batch, mesh)
        got = jax.device_get(step_of(MODEL)(*jax.device_put((params_of(MODEL), batch), places)))
    for name, value in got[0].items():
        np.testing.assert_allclose(value, alone[0][name], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got[1:], alone[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": 0}, "queries: 0 is too small"),
        ({"dream_start": 261}, "dream_start: 261, so that ids go up to 264, of a vocabulary of 264"),
        ({"trains": ("eyes",)}, r"trains\[0\]: \'eyes\' is not known; choose from vision"),
        ({"text_weight": 0.0, "vision_weight": 0.0}, "text_weight: of .* one must be above 0"),
        ({"contrast_weight": 1.0}, "decoder.text_vocab_size: 0, but captions are to be read"),
        ({"align_weight": 1.0}, "decoder.text_vocab_size: 0, but captions are to be read"),
        ({"align_weight": 1.0, "vision_weight": 0.0}, "align_weight: 1.0, but vision_weight is 0"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        model_of(**changes)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vision", {"patch": 3}, "config.model.vision.patch: 3 does not divide resolution = 8"),
        (
            "vision",
            {"encoder_layers": 1},
            "config.model.vision.encoder_layers: 1 is too small; use 2 or more",
        ),
        ("language", {"width": 0}, "config.model.language.width: 0 is too small"),
        ("language", {"vision_vocab_size": 4}, "config.model.language.vision_vocab_size: 4, but pictures"),
        ("decoder", {"unconditional_length": 1}, "config.model.decoder.unconditional_length: 1, but queries"),
        (
            "decoder",
            {"resolution": 16},
            "config.model.decoder.resolution: 16 pixels are drawn and 8 are seen",
        ),
        ("decoder", {"blokcs": 1}, "config.model.decoder.blokcs: there is no such field"),
    ],
)
def test_a_part_that_is_wrong_is_named_with_its_field(part, changes, message):
    """And a part may differ from that of the size in some fields alone."""
    block = {"name": "dreamllm", "size": "debug", part: changes}
    with pytest.raises(UserError, match=message):
        build_model(block)
    kept = build_model({"name": "dreamllm", "size": "debug", "vision": {"encoder_layers": 3}}).config
    assert kept.vision == dataclasses.replace(MODEL.config.vision, encoder_layers=3, remat="nothing_saveable")


def test_a_batch_that_does_not_fit_is_refused():
    batch, params = batch_of(), None
    for changes, message in (
        ({"frames": batch["frames"][:, :, :4]}, r"frames: uint8 .* needs uint8 \[2, I, 8, 8, 3\]"),
        ({"places": batch["places"][:, 1:]}, "places: shape .* needs"),
        ({"frame_weights": batch["frame_weights"][:, 1:]}, "frame_weights: shape .* needs"),
    ):
        with pytest.raises(ValueError, match=message):
            MODEL.loss(params, batch | changes, jax.random.key(0))
    with pytest.raises(ValueError, match="batch: has no 'places', which a DreamLLM reads"):
        MODEL.loss(params, {name: x for name, x in batch.items() if name != "places"}, jax.random.key(0))
