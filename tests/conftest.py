"""Eight virtual CPU devices for every test, and one compilation cache for the run."""

import os
import tempfile

# Most of a test's time is compilation; programs as small as these are not worth making fast.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Workers of one run share the cores; threads of NumPy that wait for each other take them from all.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Workers of one pytest run share a cache of compiled programs; it holds nothing from earlier runs.
_RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"pid{os.getpid()}")
jax.config.update("jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), f"lwm-tests-{_RUN}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def mesh_of():
    """Returns `mesh_of(**axes)`: a mesh on the first devices that the axes need."""
    from lwm.parallel.mesh import make_mesh

    def make(**axes):
        count = 1
        for size in axes.values():
            count *= size
        return make_mesh(**axes, devices=jax.devices()[:count])

    return make


RUN_CODES, RUN_SIDE, RUN_FRAME, RUN_CONTEXT = 16, 16, 4, 512


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A folder of workdirs with random weights, as training leaves them.

    data: captioned pictures of 16 x 16, bytes, encoded by "vqgan" into 4 of 16 codes. lwm: text and vision.
    text: text alone. vqgan; large: one of other codes. imported: lwm with a tokenizer.model, without data.
    """
    import json

    import numpy as np
    from PIL import Image

    from lwm import systems
    from lwm.data.preparation import prepare
    from lwm.data.tokenizers import train_sentencepiece
    from lwm.training.checkpoints import stage_folder, write_params

    folder, random, lines = tmp_path_factory.mktemp("runs"), np.random.default_rng(0), []
    (folder / "input").mkdir()
    for index in range(2):
        pixels = random.integers(0, 256, (RUN_SIDE, RUN_SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "input" / f"{index}.png")
        lines.append({"image": f"{index}.png", "caption": f"picture {index}"})
    (folder / "input" / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prepare(
        input=str(folder / "input"),
        output=folder / "data",
        tokenizer="bytes",
        resolution=RUN_SIDE,
        vqgan=str(folder / "vqgan"),
        load_encoder=lambda _: (lambda images: images[:, ::8, ::8, 0].reshape(-1, 4) % RUN_CODES, RUN_CODES),
    )
    model = {"name": "lwm", "size": "debug", "vision_vocab_size": RUN_CODES + 2}
    vqgan = {"name": "vqgan", "size": "tiny", "resolution": RUN_SIDE, "codes": RUN_CODES}
    vqgan |= {"channels": 8, "patch": 8}
    blocks = {"lwm": model, "text": model | {"vision_vocab_size": 0}, "imported": model | {"vocab_size": 400}}
    blocks |= {"vqgan": vqgan, "large": vqgan | {"codes": 2 * RUN_CODES}}
    stage = {"name": "only", "context_length": RUN_CONTEXT, "mixture": {}, "rope_theta": 1e4}
    stage |= {"text_weight": 0.5, "vision_weight": 0.5, "stripe": 8}
    batch = {name: np.zeros((1, 8), np.int32) for name in ("tokens", "positions", "segments", "is_vision")}
    batch["images"] = np.zeros((1, RUN_SIDE, RUN_SIDE, 3), np.uint8)
    for name, block in blocks.items():
        params = jax.jit(systems.build_model(block, stage).init)(jax.random.key(0), batch)
        # Weights large enough that logits, and pictures of codes, differ.
        params = jax.tree.map(lambda w: w * 4 if w.ndim > 1 else w, params)
        if "codebook" in params:
            params["codebook"] = jax.tree.map(lambda w: w * 100, params["codebook"])
        config = {"model": block, "stages": {"only": stage}}
        config |= {} if name == "imported" else {"data": {"path": str(folder / "data")}}
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        write_params(stage_folder(folder / name, 0, "only"), params, {"config": config, "stage": stage})
    train_sentencepiece(["A model of text and of pictures.\n" * 40], 300, folder / "imported/tokenizer.model")
    return folder


@pytest.fixture
def one_device(monkeypatch):
    """Runs are loaded onto one device."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture(scope="session")
def clip_run(tmp_path_factory, noise_videos):
    """A workdir of a model that looks at clips, with random weights and open gates, as training leaves it."""
    import json

    import numpy as np

    from lwm import systems
    from lwm.training import inputs
    from lwm.training.checkpoints import stage_folder, write_params
    from lwm.training.stages import Axes, Stage

    folder, rng = tmp_path_factory.mktemp("clip_run"), np.random.default_rng(0)
    block = {"name": "cross_attention", "size": "debug", "layers": 2, "remat": "none"}
    about = {
        "name": "only",
        "context_length": 256,
        "batch_tokens": 512,
        "mixture": {"odd": 1.0, "order": 1.0},
    }
    stage = Stage(steps=1, learning_rate=1e-3, mesh=Axes(), frames=16, shown=8, vision_weight=0.0, **about)
    about |= {"frames": 16, "shown": 8, "questions": 1, "weighting": "example", "rope_theta": 1e4}
    about |= {"text_weight": 1.0, "vision_weight": 0.0}
    model = systems.build_model(block, about)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        middle = 1.0 if name.endswith(("scale", "gate")) else 0.0
        return jax.numpy.asarray(rng.normal(middle, 0.15, leaf.shape), "float32")

    shapes = jax.eval_shape(lambda key, batch: model.init(key, batch), jax.random.key(0),
                            inputs.batch_shapes(stage, model.config))  # fmt: skip
    config = {"model": block, "stages": {"only": about}}
    config |= {"data": {"path": str(noise_videos(model.config.resolution, train=24, heldout=24))}}
    (folder / "config.json").write_text(json.dumps(config))
    params = jax.tree.map_with_path(draw, shapes)
    write_params(stage_folder(folder, 0, "only"), params, {"config": config, "stage": about})
    return folder


@pytest.fixture(scope="session")
def dream_run(tmp_path_factory):
    """A workdir of a DreamLLM that reads bytes and opens dreams often, with random weights."""
    import json
    import math

    import numpy as np

    from lwm import systems
    from lwm.training.checkpoints import stage_folder, write_params

    folder, rng = tmp_path_factory.mktemp("dream_run"), np.random.default_rng(0)
    block = {
        "name": "dreamllm",
        "size": "debug",
        "language": {"layers": 1, "remat": "none", "attention_block": 16},
        "vision": {"remat": "none"},
        "decoder": {"multipliers": [1], "attention": [True], "text_vocab_size": 0},
    }
    stage = {"name": "only", "context_length": 96, "rope_theta": 1e4, "stripe": 8, "images": 4}
    stage |= {"text_weight": 1.0, "vision_weight": 10.0, "mixture": {"albums": 1.0}, "forms": {}}
    model = systems.build_model(block, stage)
    shapes = {
        name: jax.ShapeDtypeStruct((1, 8), "int32")
        for name in ("tokens", "targets", "segments", "positions", "places")
    }
    shapes |= {"weights": jax.ShapeDtypeStruct((1, 8), "float32")}
    shapes |= {"frames": jax.ShapeDtypeStruct((1, 1, 8, 8, 3), "uint8")}
    shapes |= {"frame_weights": jax.ShapeDtypeStruct((1, 1), "float32")}

    def draw(path, leaf):
        if str(path).endswith("scale')]"):
            return jax.numpy.ones(leaf.shape)
        spread = max(math.prod(leaf.shape[:-1]), 9) ** -0.5
        return jax.numpy.asarray(rng.normal(0, spread, leaf.shape), "float32")

    params = jax.tree.map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), shapes))
    head = params["language"]["lm_head"]
    head["kernel"] = head["kernel"].at[:, model.config.dream_start].multiply(8)
    (folder / "data").mkdir()
    (folder / "data/data.json").write_text(json.dumps({"tokenizer": "bytes"}))
    config = {"model": block, "stages": {"only": stage}, "data": {"path": str(folder / "data")}}
    (folder / "config.json").write_text(json.dumps(config))
    write_params(stage_folder(folder, 0, "only"), params, {"config": config, "stage": stage})
    return folder


@pytest.fixture(scope="session")
def noise_videos(tmp_path_factory):
    """`noise_videos(side, train=…, heldout=…)`: a data folder of three videos, as `lwm.prepare` leaves it."""
    import numpy as np

    from lwm.data import datasets, manifest, recipes

    def make(side, **lengths):
        folder, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
        counts = {name: lengths for name in ("a.mp4", "b.mp4", "c.mp4")}

        def records(split):
            for name in counts:
                for index in range(lengths[split]):
                    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                    yield {"image": image, "video": name, "index": index}

        made = {split: recipes.Recipe([split], records) for split in lengths}
        datasets.write_frames(folder, made, resolution=side)
        manifest.write_json(folder / manifest.RECORD, {"settings": {}, "media": counts, "broken": []})
        about = {"tokenizer": "bytes", "vocab_size": 259, "resolution": side, "sources": {}}
        about["frames"] = {split: 3 * length for split, length in lengths.items()}
        manifest.write_json(folder / manifest.MANIFEST, about)
        return folder

    return make
