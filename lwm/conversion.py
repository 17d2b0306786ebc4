"""From weights of other programs to a workdir, and back; what `python -m lwm.convert` calls.

It stands beside the verbs because it knows both sides: the formats, and the checkpoints of a run.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from lwm.data import tokenizers
from lwm.errors import UserError
from lwm.interop import formats, gguf_file, huggingface, lwm_release, lwm_vqgan
from lwm.interop.imported import Imported
from lwm.parallel.mesh import make_mesh
from lwm.systems import build_model
from lwm.training.checkpoints import load_params, stage_folder, write_params
from lwm.training.experiment import Experiment
from lwm.training.folders import check_new
from lwm.training.stages import Axes, Stage, parse_axes
from lwm.training.workdir import write_config

STAGE = "imported"


def read_model(
    source: epath.PathLike,
    *,
    mesh: Mesh | None = None,
    dtype: Any = None,
    given: dict[str, Any] | None = None,
) -> Imported:
    """Reads a model of any known format.

    Args:
      mesh: to spread its parameters on, None = one device.
      dtype: to keep them in, None = the source's own.
      given: what the source itself does not say: "context_length", "rope_theta", "heads" of a checkpoint that
        LWM released, "resolution" of its VQGAN.

    Raises:
      UserError: the source is broken or of no known format, or it says itself what is given.
    """
    given = {name: value for name, value in (given or {}).items() if value}
    readers = {
        "huggingface": (huggingface.read, ()),
        "gguf": (gguf_file.read, ()),
        "lwm": (lwm_release.read, ("context_length", "rope_theta", "heads")),
        "vqgan": (lwm_vqgan.read, ("resolution",)),
    }
    format = formats.recognise(source)
    reader, asks = readers[format]
    for name in given:
        if name not in asks:
            raise UserError(f"{name}: {given[name]} is not asked for by {source} ({format}); leave it out")
    return reader(source, mesh=mesh, dtype=dtype, **given)


def import_model(
    source: epath.PathLike,
    workdir: epath.PathLike,
    *,
    tokenizer: epath.PathLike = "",
    mesh: Mesh | None = None,
    dtype: Any = None,
    given: dict[str, Any] | None = None,
) -> Imported:
    """Writes a workdir with one stage, "imported", and the tokenizer; it appears when it is whole.

    Args:
      workdir: must not exist yet, or be an empty folder.
      tokenizer: of the model, if the source has none or another is wanted; see `load_tokenizer`.

    Raises:
      UserError: as `read_model`; the workdir is in use; the tokenizer is broken or does not fit.
    """
    check_new("workdir", workdir)
    files = tokenizers.load_tokenizer(tokenizer).files if tokenizer else None
    imported = read_model(source, mesh=mesh, dtype=dtype, given=given)
    if files is not None:
        imported = imported._replace(tokenizer=files)
    write_workdir(workdir, imported, name=tokenizer or source)
    return imported


def write_workdir(workdir: epath.PathLike, imported: Imported, *, name: epath.PathLike = "tokenizer") -> None:
    """Writes a workdir with one stage, "imported"; it appears when it is whole.

    Args:
      name: what to call the tokenizer in messages.

    Raises:
      UserError: the workdir is in use, or the tokenizer is broken or does not fit the model.
    """
    check_new("workdir", workdir)
    with _appearing(workdir) as draft:
        for own, content in imported.tokenizer.items():
            (draft / own).write_bytes(content)
        if any((draft / own).exists() for own in tokenizers.TOKENIZER_FILES):
            tokenizer = tokenizers.load_tokenizer(draft)
            tokenizers.check_vocabulary(tokenizer, imported.config.vocab_size, name)
        _write_run(draft, imported)


@contextlib.contextmanager
def _appearing(path: epath.PathLike) -> Iterator[epath.Path]:
    """A folder to write to, which gets its name when all went well, and is gone if not."""
    path = epath.Path(path)
    draft = path.parent / f"{path.name}.part"
    if draft.exists():
        draft.rmtree()
    try:
        draft.mkdir(parents=True)
        yield draft
        if path.exists():
            path.rmdir()
        draft.rename(path)
    except BaseException:
        draft.rmtree(missing_ok=True)
        raise


def _write_run(workdir: epath.Path, imported: Imported) -> None:
    stage = Stage(
        name=STAGE,
        steps=0,
        learning_rate=0.0,
        mesh=Axes(),
        context_length=imported.context_length,
        rope_theta=getattr(imported.config, "rope_theta", 10_000.0),
    )
    model = {"name": imported.model} | dataclasses.asdict(imported.config)
    config = dataclasses.asdict(Experiment(experiment=STAGE, model=model, stages={STAGE: stage}))
    folder = stage_folder(workdir, 0, STAGE)
    write_params(folder, imported.params, {"config": config, "stage": dataclasses.asdict(stage)})
    write_config(workdir, config)


def export_model(workdir: epath.PathLike, output: epath.PathLike, *, stage: str | None = None) -> None:
    """Writes a stage's weights as a Hugging Face folder, which appears under its name when it is whole.

    Raises:
      UserError: the workdir holds no transformer, or one that is no Llama; the output exists.
    """
    check_new("output", output)
    config, block, params = load_params(workdir, stage)
    if config["model"]["name"] != "lwm":
        raise UserError(f"workdir: {workdir} holds a {config['model']['name']}; only a transformer can leave")
    model = build_model(config["model"], block)
    length, ids = block["context_length"], {}
    with _appearing(output) as draft:
        tokenizer = _tokenizer_of(workdir, config)
        if tokenizer is not None:
            ids = {"begin": tokenizer.bos, "end": tokenizer.eos}
            for name, content in tokenizer.files.items():
                (draft / name).write_bytes(content)
        huggingface.write(draft, model.config, params, context_length=length, **ids)


def _tokenizer_of(workdir: epath.PathLike, config: dict) -> tokenizers.Tokenizer | None:
    """The workdir's own, or that of the data it was trained on, if it still is there."""
    for folder in (epath.Path(workdir), epath.Path(config["data"]["path"] or workdir)):
        if any((folder / name).exists() for name in tokenizers.TOKENIZER_FILES):
            return tokenizers.load_tokenizer(folder)
    return None


def mesh_of(text: str) -> Mesh | None:
    """The mesh that "fsdp=4,tensor=2" asks for on all devices; "" = none.

    Raises:
      UserError: an unknown axis, or a product that is not the number of devices.
    """
    if not text:
        return None
    return make_mesh(**dataclasses.asdict(parse_axes(Stage(STAGE, 0, 0.0, Axes()), text).mesh))


def size(imported: Imported) -> tuple[int, str]:
    """Number of parameters, and the types that they are kept in."""
    leaves = jax.tree.leaves(imported.params)
    return sum(leaf.size for leaf in leaves), ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
