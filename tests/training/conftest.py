"""A stream of made-up batches, a model that compiles at once, and a miniature experiment on them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lwm.parallel.layout import zigzag_order
from lwm.training.experiment import build_experiment
from lwm.training.loop import train
from lwm.training.metrics import read_rows
from lwm.training.schema import build

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VOCABULARY, CODES = 40, 20
MANIFEST = {
    "vocab_size": VOCABULARY,
    "eov": CODES - 1,
    "resolution": 16,
    "frames": {"train": 64, "heldout": 8},
    "sources": {
        "text": {"train": {"documents": 9}, "heldout": {"documents": 2}},
        "video": {"train": {"documents": 9}, "heldout": {"documents": 0}},
    },
    "longest_text": {"video": {"tokens": 3, "name": "a.mp4"}},
}


@dataclasses.dataclass(frozen=True)
class BagConfig:
    vocab_size: int = VOCABULARY
    vision_vocab_size: int = CODES
    width: int = 16
    noise: float = 0.1
    resolution: int = 16
    refresh_every: int = 0
    fail: bool = False
    witness: bool = False  # report "digest", by which two batches can be held against each other


class Bag:
    """Predicts the next token from this one through noise: random keys, both heads, quick to compile."""

    PARTITION_RULES = (
        (r"(wte|vte)/embedding$", P("tensor", ("fsdp", "seq"))),
        (r"head/kernel$", P(("fsdp", "seq"), "tensor")),
        (r"norm/scale$", P(None)),
    )

    def __init__(self, config):
        self.config = config
        self.refresh_every = config.refresh_every

    def init(self, key, batch):
        keys = iter(jax.random.split(key, 4))
        D = self.config.width

        def pair(table, head, size):
            return {
                table: {"embedding": jax.random.normal(next(keys), (size, D))},
                head: {"kernel": 0.1 * jax.random.normal(next(keys), (D, size))},
            }

        params = pair("wte", "lm_head", self.config.vocab_size) | {"norm": {"scale": jnp.ones(D)}}
        if self.config.vision_vocab_size:
            params |= pair("vte", "vision_head", self.config.vision_vocab_size)
        return params

    def loss(self, params, batch, key):
        if "images" in batch:
            x_BD = batch["images"].reshape(len(batch["images"]), -1)[:, : self.config.width] / 255.0
            logits_BV = (x_BD * params["norm"]["scale"]) @ params["lm_head"]["kernel"]
            return jnp.mean(logits_BV**2), {"denominator": jnp.float32(len(x_BD))}
        x_BTD = params["wte"]["embedding"][batch["tokens"]]
        if "vte" in params:
            x_BTD = jnp.where(
                batch["is_vision"][..., None], params["vte"]["embedding"][batch["tokens"]], x_BTD
            )
        x_BTD = x_BTD * params["norm"]["scale"]
        x_BTD += self.config.noise * jax.random.normal(key, x_BTD.shape)

        def nll(head):
            logits_BTV = x_BTD @ params[head]["kernel"]
            return -jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), batch["targets"][..., None], -1)[
                ..., 0
            ]

        nll_BT = nll("lm_head")
        if "vision_head" in params:
            nll_BT = jnp.where(batch["targets_are_vision"], nll("vision_head"), nll_BT)
        segments = jnp.sum(jnp.max(batch["segments"], axis=1)).astype(jnp.float32)
        loss = jnp.sum(batch["weights"] * nll_BT) / jnp.maximum(segments, 1)
        if self.config.fail:
            loss = loss * jnp.nan
        tokens = jnp.sum(batch["weights"] > 0).astype(jnp.float32)
        mean = jnp.sum(jnp.where(batch["weights"] > 0, nll_BT, 0)) / jnp.maximum(tokens, 1)
        own = {"digest": digest(batch)} if self.config.witness else {}
        return loss, own | {"denominator": segments, "text_nll": mean, "text_tokens": tokens}

    def refresh(self, params, batch, key):
        return params | {"norm": {"scale": jnp.full_like(params["norm"]["scale"], 7.0)}}


def digest(batch):
    """24 bits of which token stands where in which row; neither the mesh nor a ring's order changes them."""
    words = jnp.arange(1, len(batch["tokens"]) + 1, dtype=jnp.uint32)[:, None]
    for name in ("segments", "positions", "tokens", "targets", "is_vision"):
        words = (words ^ batch[name].astype(jnp.uint32)) * jnp.uint32(0x9E3779B1)
        words ^= words >> 15
    return (jnp.sum(words, dtype=jnp.uint32) >> 8).astype(jnp.float32)  # exact: it holds 24 bits


class Stream:
    """Endless batches; row b of batch i depends on the seed, on i and on b alone, as in the data pipeline."""

    cut = None  # (stage, i): reading batch i of that stage for training ends the process, so to say

    def __init__(self, stage, data_dir, *, split, seed, ring, rows):
        self.stage, self.ring, self.index, self.split = stage, ring, 0, split
        self.seed = [seed, split == "train"]
        size = stage.rows // rows.count
        self.lanes = range(rows.index * size, (rows.index + 1) * size)

    def get_state(self):
        return {"index": self.index}

    def set_state(self, state):
        self.index = state["index"]

    def __next__(self):
        if self.split == "train" and (self.stage.name, self.index) == Stream.cut:
            raise Cut
        rows = [self.row(np.random.default_rng([*self.seed, self.index, lane])) for lane in self.lanes]
        self.index += 1
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def row(self, rng):
        if self.stage.of_images:
            return {"images": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)}
        return token_row(rng, self.stage.context_length, self.ring)


class Cut(Exception):
    pass


def token_row(rng, length, ring=1):
    """A row of one to three packed segments of both modalities, with padding and prompts, in zigzag order."""
    cuts = np.sort(rng.choice(np.arange(2, length - 2), rng.integers(1, 4), replace=False))
    segments = np.searchsorted(cuts, np.arange(length), side="right") + 1
    segments = np.where(segments > len(cuts), 0, segments).astype(np.int32)
    starts = np.concatenate([[0], cuts])
    positions = np.arange(length) - starts[np.searchsorted(starts, np.arange(length), "right") - 1]
    vision = (rng.random(length) < 0.4) & (segments > 0)
    targets_vision = np.roll(vision, -1)
    mask = (segments > 0) & (rng.random(length) < 0.8)
    weights = np.zeros(length, np.float32)
    for segment in range(1, len(cuts) + 1):
        for modality in (False, True):
            own = mask & (segments == segment) & (targets_vision == modality)
            weights[own] = 1 / max(own.sum(), 1)
    tokens = np.where(vision, rng.integers(0, CODES, length), rng.integers(0, VOCABULARY, length))
    row = {
        "tokens": tokens.astype(np.int32),
        "targets": rng.integers(0, CODES, length).astype(np.int32),
        "weights": weights,
        "segments": segments,
        "positions": positions.astype(np.int32),
        "is_vision": vision,
        "targets_are_vision": targets_vision,
    }
    return {name: array[zigzag_order(length, ring)] for name, array in row.items()}


@pytest.fixture(scope="session")
def token_batch():
    """`token_batch(rows, length, ring=1)`: numpy arrays; only their order depends on the ring."""

    def make(rows, length, ring=1):
        found = [token_row(np.random.default_rng(row), length, ring) for row in range(rows)]
        return {name: np.stack([row[name] for row in found]) for name in found[0]}

    return make


@pytest.fixture(scope="session")
def bag():
    """`bag(**fields)`: the made-up model."""
    return lambda **fields: Bag(build(BagConfig, fields, path="config.model"))


@pytest.fixture(scope="session")
def config_of():
    """`config_of(stages, **fields)`: a config; its stages are these blocks on top of a small default."""

    def make(stages, **fields):
        stage = dict(context_length=16, batch_tokens=128, steps=4, learning_rate=0.01, mesh={"data": 8})
        stage |= dict(mixture={"text": 1.0}, warmup_steps=1)
        config = {"experiment": "miniature", "model": {}, "log_every": 1, "seed": 3}
        return config | {"stages": {name: stage | block for name, block in stages.items()}} | fields

    return make


@pytest.fixture(scope="session")
def run(bag):
    """`run(config, workdir, cut=None, **changes)`: `loop.train` of the made-up model on made-up batches.

    `cut=(stage, i)` stops it, as a power cut would, when batch i of the stage is wanted.
    """

    def go(config, workdir, cut=None, **changes):
        experiment = build_experiment(config)
        settings = dict(
            build_model=lambda stage: bag(**experiment.model), manifest=MANIFEST, open_batches=Stream
        )
        Stream.cut = cut
        try:
            return train(experiment, workdir, **(settings | changes))
        except Cut:
            return "cut"
        finally:
            Stream.cut = None

    return go


@pytest.fixture(scope="session")
def stream_class():
    return Stream


@pytest.fixture(scope="session")
def rows_of():
    """`rows_of(workdir)`: the rows of metrics.jsonl without what a clock wrote."""

    def read(workdir):
        return [
            {name: value for name, value in row.items() if "second" not in name}
            for row in read_rows(workdir / "metrics.jsonl")
        ]

    return read


@pytest.fixture(scope="session")
def assert_same():
    """`assert_same(a, b)`: two trees are equal bit for bit."""

    def check(a, b):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                x, y = jax.random.key_data(x), jax.random.key_data(y)
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

    return check


@pytest.fixture(scope="session")
def saved():
    """`saved(stage_folder)`: everything in the newest checkpoint, as plain arrays and JSON."""
    import orbax.checkpoint as ocp

    from lwm.training.checkpoints import latest_step

    def restore(folder):
        reader = ocp.PyTreeCheckpointer()
        tree = reader.metadata(folder).item_metadata.tree
        # Not onto the devices that saved it: a pod's are not those of this process.
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, ocp.args.PyTreeRestore(restore_args=args))

    def read(folder):
        folder = folder / str(latest_step(folder))
        arrays = {name: restore(folder / name) for name in ("params", "rest")}
        return arrays, json.loads((folder / "position" / "metadata").read_text())

    return read


@pytest.fixture(scope="session")
def start_pod():
    """`start_pod(hosts, devices, workdir, config, **variables)`: trains as so many processes, see host.py.

    Their logs are in WORKDIR_logs. Whoever starts a pod waits for its end.
    """

    def start(hosts, devices, workdir, config, **variables):
        command = [ROOT / "launch" / "local_pod.sh", str(hosts), str(devices), "--"]
        command += [sys.executable, HERE / "host.py", workdir, json.dumps(config)]
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{HERE}",
            "LOCAL_POD_LOGS": f"{workdir}_logs",
        }
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return subprocess.Popen(command, cwd=HERE, env=env | variables, **pipes)

    return start


@pytest.fixture(scope="session")
def run_pod(start_pod):
    """`run_pod(…)`: as `start_pod`, to the end of all stages; what host 0 said."""

    def go(*arguments, **variables):
        process = start_pod(*arguments, **variables)
        shown, _ = process.communicate(timeout=900)
        assert process.returncode == 0, shown
        return shown

    return go
