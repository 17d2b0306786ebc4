"""MultiModel on a few rows of every kind: causality, decoding, losses, metrics, ablations, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lwm.errors import UserError
from lwm.generation.beam import write_texts
from lwm.models.multimodel import SIZES, MultiModel, MultiModelConfig
from lwm.models.multimodel_routing import expert_choices
from lwm.models.multimodel_rows import join, part
from lwm.models.multimodel_sizes import ABLATIONS, DECODED

# The programs are tiny: compiling them well takes longer than running them badly.


@functools.cache
def model(**changes):
    return MultiModel(MultiModelConfig(**SIZES["debug"] | {"dropout": 0.0} | changes))


@functools.cache
def params_of(own):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        scale = 0.2 if leaf.ndim < 3 else 0.3
        return (scale * rng.normal(size=leaf.shape) + str(path).count("scale")).astype(np.float32)

    return jax.tree.map_with_path(draw, jax.eval_shape(lambda: own.init(jax.random.key(0), None)))


def jit(fn):
    return jax.jit(fn)


def close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance * max(1.0, float(np.abs(b).max())))


@pytest.fixture(scope="module")
def batch(task_batch):
    return task_batch(model().config)


@pytest.fixture(scope="module")
def outputs(batch):
    own = model()
    return jit(own.outputs)(params_of(own), batch)


def test_rows_of_several_arrays_are_joined_and_parted_again():
    arrays = [np.arange(n * 2).reshape(n, 2) + 100 * n for n in (4, 2, 6)]
    joined = join(arrays)
    assert sorted(np.asarray(joined)[:, 0].tolist()) == sorted(x for a in arrays for x in a[:, 0].tolist())
    for array, own in zip(arrays, part(joined, [4, 2, 6]), strict=True):
        np.testing.assert_array_equal(array, own)


def test_no_logit_knows_of_a_later_target(batch, outputs):
    """Through mixer, convolutions, attention and experts, also when these are full."""
    changed = {kind: dict(rows) for kind, rows in batch.items()}
    for kind in DECODED:
        targets = changed[kind]["targets"].copy()
        targets[:, 2:] = np.where(targets[:, 2:] > 0, 1 + (targets[:, 2:] + 6) % 31, 0)
        changed[kind]["targets"] = targets
    for own, before in ((model(), outputs), (model(evaluation_capacity=0.5), None)):
        run = jit(own.outputs)
        before = before or run(params_of(own), batch)
        after = run(params_of(own), changed)
        np.testing.assert_array_equal(before.words_BTV[:, :3], after.words_BTV[:, :3])
        assert np.abs(before.words_BTV[:, 3:] - after.words_BTV[:, 3:]).max() > 1e-3
    assert sum(float(own.dropped) for own in before.traffic) > 0


@pytest.mark.slow
def test_gradients_of_the_decoder_do_not_reach_the_future(batch):
    """By the embedded targets, of which each word here has its own row."""
    own = model()
    B, T = batch["translate"]["targets"].shape
    rows = {
        "translate": batch["translate"] | {"targets": np.arange(1, B * T + 1).reshape(B, T).astype(np.int32)}
    }

    def early(table):
        params = params_of(own)
        params = params | {"words": {"embedding": table}}
        return jnp.sum(jnp.sin(own.outputs(params, rows).words_BTV[:, :3]))

    rows["translate"]["source"] = np.full_like(rows["translate"]["source"], B * T + 1)
    gradient = np.asarray(jit(jax.grad(early))(params_of(own)["words"]["embedding"]))
    felt = gradient[1 : B * T + 1].any(axis=-1).reshape(B, T)[rows["translate"]["weights"] > 0]
    assert felt[:, :2].all() and not felt[:, 2:].any()


@pytest.mark.slow
def test_padding_of_a_source_changes_nothing(batch):
    own = model()
    run = jit(lambda batch: own.outputs(params_of(own), batch).words_BTV)
    rows = dict(batch["speech"])
    # The text does not depend on how long a batch is filled up, nor on what stands in other rows.
    alone = {name: array[:2] for name, array in rows.items()}
    close(run({"speech": rows})[:2], run({"speech": alone}))
    wide = {"translate": dict(batch["translate"])}
    wide["translate"]["source"] = np.pad(wide["translate"]["source"], ((0, 0), (0, 3)))
    close(run(wide), run({"translate": batch["translate"]}))


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in DECODED[1:]] + [DECODED[0]]
)
def test_words_one_by_one_have_the_logits_of_the_whole(batch, outputs, kind):
    own = model()
    params, rows = params_of(own), batch[kind]
    sizes = [len(batch[name]["targets"]) for name in DECODED]
    expected = np.asarray(part(outputs.words_BTV, sizes)[DECODED.index(kind)])
    T = expected.shape[1]
    inputs = {name: array for name, array in rows.items() if name not in ("targets", "weights", "task")}
    source = jit(lambda rows: own.encode(params, rows))(inputs)
    logits, decoding = jit(lambda source, task: own.begin(params, source, task, T))(source, rows["task"])
    step, found = jit(lambda *arguments: own.step(params, *arguments)), [logits]
    for t in range(T - 1):
        logits, decoding = step(decoding, rows["targets"][:, t])
        found.append(logits)
    seen = (rows["targets"] > 0) & (rows["weights"][:, None] > 0)
    close(np.stack(found, axis=1)[seen], expected[seen])


@pytest.mark.slow
def test_greedy_text_is_what_the_whole_model_finds_likeliest(batch):
    own = model()
    params, rows, T = params_of(own), batch["translate"], own.config.target_length

    rows = rows | {"weights": np.ones_like(rows["weights"])}
    words = np.asarray(write_texts(own, params, rows, beams=1).words_BT)
    assert words.shape[1] == T
    logits = np.array(jit(own.outputs)(params, {"translate": rows | {"targets": words}}).words_BTV)
    logits[..., 0] = -np.inf
    seen = words > 0
    assert seen[:, 0].all()
    np.testing.assert_array_equal(logits.argmax(axis=-1)[seen], words[seen])


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in DECODED[:2]] + [DECODED[2]]
)
def test_a_text_does_not_depend_on_rows_that_fill_up(task_batch, kind):
    """At experts that are full: filler takes no place, and rows of nothing but padding stay finite."""
    own = model(evaluation_capacity=0.5, tasks=(kind,), kinds=(kind,))
    params, rows = params_of(own), task_batch(own.config, rows=8)[kind]
    # Where places are given in the order of rows, those that fill up come first.
    real = np.arange(8) >= 5
    found = []
    for shift in (1, 2):
        filler = {name: np.roll(array, shift, axis=0) for name, array in rows.items()}
        own_rows = {name: np.concatenate([filler[name][:5], array[5:]]) for name, array in rows.items()}
        own_rows["weights"] = real.astype(np.float32)
        found.append(write_texts(own, params, own_rows, beams=1))
    one, other = found
    np.testing.assert_array_equal(one.words_BT[real], other.words_BT[real])
    np.testing.assert_array_equal(one.scores_B[real], other.scores_B[real])
    assert np.isfinite(one.scores_B).all()
    nobody = own_rows | {"weights": np.zeros(8, np.float32)}
    assert np.isfinite(write_texts(own, params, nobody, beams=1).scores_B).all()


@pytest.mark.slow
def test_loss_and_metrics_of_tasks_are_those_of_their_formulas(batch, outputs):
    own = model()
    loss, metrics = jit(own.evaluate)(params_of(model()), batch)
    words = dict(
        zip(DECODED, part(outputs.words_BTV, [len(batch[k]["targets"]) for k in DECODED]), strict=True)
    )
    total = weight = 0.0
    for task, kind in zip(own.config.tasks, own.config.kinds, strict=True):
        rows, nlls, hits = batch[kind], [], []
        logits = outputs.labels_BV[:, None] if kind == "classify" else words[kind]
        targets = rows["labels"][:, None] if kind == "classify" else rows["targets"]
        logs = np.asarray(jax.nn.log_softmax(logits))
        for b, w in enumerate(rows["weights"]):
            seen = np.ones(1, bool) if kind == "classify" else targets[b] > 0
            nll = -logs[b][seen, targets[b][seen]]
            total += w * np.mean(0.9 * nll - 0.1 * logs[b][seen].mean(axis=-1))
            weight += w
            if w:
                nlls.extend(nll)
                hits.extend(logs[b][seen].argmax(axis=-1) == targets[b][seen])
        np.testing.assert_allclose(metrics[f"loss_{task}"], np.mean(nlls), rtol=1e-5)
        np.testing.assert_allclose(metrics[f"accuracy_{task}"], np.mean(hits), rtol=1e-5)
        assert metrics[f"count_{task}"] == len(nlls)
    np.testing.assert_allclose(metrics["denominator"], weight, rtol=1e-6)
    np.testing.assert_allclose(metrics["main"], total / weight, rtol=1e-5)
    balance = 2 * (metrics["importance_cv2"] + metrics["load_cv2"]) * own.config.balance_weight
    np.testing.assert_allclose(loss, metrics["main"] + balance, rtol=1e-5)
    assert metrics["dropped"] == 0 and metrics["load_cv2"] > 0


def test_choices_of_experts_are_told_row_by_row(batch, outputs):
    own = model().config
    found = expert_choices(outputs, batch, own.experts)
    for name, kinds in (("encoder", own.kinds), ("decoder", DECODED)):
        task_B, counts_BE = (np.asarray(array) for array in found[name])
        for kind in kinds:
            of_kind = counts_BE[task_B == own.kinds.index(kind)].sum(axis=1)
            assert len(of_kind) == 4 and sorted(of_kind > 0) == [False, True, True, True]
            if name == "decoder":
                lengths = (batch[kind]["targets"] > 0).sum(axis=1)[:3]
                assert sorted(of_kind) == [0, *sorted(own.top_k * lengths)]


@pytest.mark.slow
def test_a_key_brings_noise_and_full_experts_are_counted(batch):
    own = model(dropout=0.3, capacity_factor=0.5)
    step = jit(lambda key: own.loss(params_of(model()), batch, key))
    (a, metrics), (b, _), (c, _) = (step(jax.random.key(seed)) for seed in (0, 0, 1))
    assert a == b != c and 0 < metrics["dropped"] < 1


@pytest.mark.slow
def test_a_batch_may_lack_kinds_and_a_model_too(batch):
    rows = {"classify": batch["classify"]}
    own = model(tasks=("labels",), kinds=("classify",))
    assert {"image", "categorical", "encoder"} == set(params_of(own))
    _, metrics = jit(own.evaluate)(params_of(own), rows)
    assert {name for name in metrics if name.startswith("loss_")} == {"loss_labels"}
    _, metrics = jit(model().evaluate)(params_of(model()), rows)
    assert "loss_words" not in metrics
    labels = own.predict_labels(params_of(own), {"images": batch["classify"]["images"]})
    assert labels.shape == batch["classify"]["labels"].shape and labels.dtype == jnp.int32


@pytest.mark.slow
@pytest.mark.parametrize("without", ABLATIONS[1:])
def test_ablations_have_a_loss_of_their_own(batch, outputs, without):
    own = model(without=without)
    rows = {"translate": batch["translate"]}
    step = jit(jax.value_and_grad(lambda params: own.evaluate(params, rows)[0]))
    loss, gradient = step(params_of(own))
    assert np.isfinite(loss) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert ("gate" in params_of(own)["encoder"]["experts"]) == (without != "experts")


@pytest.mark.slow
def test_every_parameter_gets_a_gradient(batch):
    own = model()
    gradient = jit(jax.grad(lambda params: own.loss(params, batch, jax.random.key(0))[0]))(params_of(own))
    still = [path for path, leaf in jax.tree.leaves_with_path(gradient) if not np.any(leaf)]
    assert not [jax.tree_util.keystr(path) for path in still]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ()}, "tasks: [] is empty or names one twice; give each task once"),
        ({"kinds": ("classify",)}, "kinds: 1 for 4 tasks; give one for each"),
        (
            {"kinds": ("classify", "caption", "speech", "talk")},
            "kinds[3]: 'talk' is not known; choose from classify",
        ),
        ({"heads": 3}, "heads: 3 does not divide width = 16; choose a divisor"),
        ({"top_k": 5}, "top_k: 5 is more than experts = 4; use at most 4"),
        ({"dropout": 1.0}, "dropout: 1.0 is too large; use less than 1"),
        ({"samples": 250}, "samples: 250 is no multiple of hop = 16; use one"),
        (
            {"without": "moe"},
            "without: 'moe' is not known; choose from '', experts, attention, convolution",
        ),
        ({"classes": 0}, "classes: 0 is too small; use 1 or more"),
        ({"eos": 0}, "eos: 0 is too small; use 1 or more"),
        ({"eos": 32}, "eos: 32 is not among the 32 ids; choose one that is"),
    ],
)
def test_what_no_network_can_be_built_from_is_named(changes, message):
    with pytest.raises(UserError) as error:
        MultiModelConfig(**SIZES["debug"] | changes)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
