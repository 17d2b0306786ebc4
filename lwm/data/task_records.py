"""The samples of many tasks of four modalities: one form of record, one TFDS data set for each task.

    DATA/task_records/<task>/1.0.0      written and read without TensorFlow, like those of `datasets`

What a record has to hold depends on the kind of its task:

    "classify"    image -> label            "speech"      waveform -> target
    "caption"     image -> target           "translate"   source -> target
"""

import io
from collections.abc import Mapping, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image

from lwm import bounds
from lwm.data import datasets
from lwm.data.recipes import Recipe, RecipeBuilder, dataset_info, write
from lwm.data.tokenizers import Tokenizer, load_tokenizer
from lwm.data.workers import Workers
from lwm.errors import UserError
from lwm.json_text import check_fields, read_block
from lwm.limits import COUNT, SIZE, Limits

# Fields of a record that a kind of task reads, and the one that is learned, last.
KINDS = {
    "classify": ("image", "label"),
    "caption": ("image", "target"),
    "speech": ("waveform", "target"),
    "translate": ("source", "target"),
}
_FIELDS = {
    **{name: Annotated[int, SIZE] for name in ("vocab_size", "resolution", "rate")},
    **{name: Annotated[int, COUNT] for name in ("eos", "max_samples")},
    "tasks": dict[str, dict],
    "classes": tuple[str, ...],
}
_OF_TASKS = {
    "kind": Annotated[str, Limits(choices=tuple(KINDS))],
    **{name: Annotated[int, COUNT] for name in ("train", "heldout")},
    **{name: dict[str, Annotated[int, COUNT]] for name in ("source", "target", "samples")},
}
MADE_BY = "python -m experiments.multimodel_data"
TASKS_JSON = "tasks.json"
SILENT = np.zeros(0, np.int16)
_VERSION = "1.0.0"


class Record(NamedTuple):
    """One sample; fields that its task does not read are empty.

    key: its name, of its own in its source · base: the item that it shows or says, which is in one split in
    all tasks · image: a PNG, uint8 [R, R, 3] · waveform: int16 [n], mono, of `rate` samples a second ·
    source, target, label: texts.
    """

    key: str
    base: str
    image: bytes = b""
    waveform: np.ndarray = SILENT
    rate: int = 0
    source: str = ""
    target: str = ""
    label: str = ""


class TaskRecords(RecipeBuilder):
    """The samples of one task; see `Record` for the fields."""

    VERSION = tfds.core.Version(_VERSION)

    def _info(self):
        texts = ("key", "base", "image", "source", "target", "label")  # Text keeps bytes as they are
        waveform = tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes")
        features = {name: tfds.features.Text() for name in texts} | {"waveform": waveform, "rate": np.int64}
        return dataset_info(self, features)


def write_task(
    data_dir: epath.PathLike,
    task: str,
    records: Mapping[str, Sequence[Record]],
    *,
    workers: Workers | None = None,
) -> None:
    """Writes the records of a task by split: whole, or not at all. A split without a record is left out."""
    recipes = {split: Recipe(own, _encode) for split, own in records.items() if own}
    config = tfds.core.BuilderConfig(name=task)
    write(data_dir, TaskRecords, recipes, workers, config=config)


def task_records(data_dir: epath.PathLike, task: str, split: str) -> Sequence[Record]:
    """Returns the records of a task by random access. Raises UserError if `data_dir` has no such task."""
    folder = epath.Path(data_dir) / "task_records" / task / _VERSION
    return datasets.RecordSource(folder, split, _decode, MADE_BY)


def load_tasks(data_dir: epath.PathLike) -> dict:
    """Returns tasks.json.

    Its keys: tasks ({name: {kind, train, heldout, source, target, samples, dropped}}: records by split,
    lengths {median, most (95 %), longest} in tokens with the end of text or in samples, what was left out by
    reason), classes (labels, in the order of their numbers), vocab_size, eos, resolution, rate (samples a
    second), max_samples (of the longest waveform), damaged (what was skipped), python (version), settings.

    Raises UserError if `data_dir` is not a finished folder of tasks, or if its tasks.json is none of ours.
    """
    path = epath.Path(data_dir) / TASKS_JSON
    if not path.exists():
        raise UserError(f"data: {data_dir} has no {TASKS_JSON}; make it by {MADE_BY} --output={data_dir}")
    found = read_block(path, fix=f"make the folder again by {MADE_BY}")
    check_fields(path, found, _FIELDS, needs=_FIELDS)
    for name, task in found["tasks"].items():
        check_fields(path, task, _OF_TASKS, needs=_OF_TASKS, within=f"tasks.{name}.")
    return found


def load_task_tokenizer(data_dir: epath.PathLike, manifest: dict) -> Tokenizer:
    """Returns the tokenizer of a folder of tasks.

    Raises UserError if there is none, or not the one of which `manifest`, the tasks.json beside it, tells.
    """
    tokenizer = load_tokenizer(epath.Path(data_dir) / "tokenizer.model")
    for field in ("vocab_size", "eos"):
        if (found := getattr(tokenizer, field)) != (told := manifest[field]):
            raise UserError(
                f"data: tokenizer.model of {data_dir} has {field} {found}, but its {TASKS_JSON} {told}; make "
                f"the folder again by {MADE_BY}"
            )
    return tokenizer


def check_modality(record: Record, task: str, kind: str) -> None:
    """Raises UserError, naming task and sample, unless the record has all that a task of this kind reads."""
    for field in KINDS[kind]:
        if not len(getattr(record, field)):
            reads, learns = KINDS[kind]
            raise UserError(
                f"task {task}: sample {record.key!r} has no {field}, and kind {kind!r} takes {reads} to "
                f"{learns}; mend the sample or give the task another kind of {list(KINDS)}"
            )


def encode_png(image_RRC: np.ndarray) -> bytes:
    """Returns uint8 [R, R, 3] as a PNG."""
    file = io.BytesIO()
    Image.fromarray(image_RRC).save(file, "PNG")
    return file.getvalue()


def decode_png(record: Record) -> np.ndarray:
    """Returns the image of a record, uint8 [R, R, 3]. Raises UserError naming it if its bytes are damaged."""
    try:
        with Image.open(io.BytesIO(record.image), formats=["PNG"]) as image:
            if image.width * image.height > bounds.PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # whatever Pillow stumbles over
        reason = str(error).split("<", 1)[0].strip()
        raise UserError(f"image of sample {record.key!r} is damaged ({reason}); prepare it again") from None


def _encode(record: Record) -> list[dict]:
    return [record._asdict()]


def _decode(record: dict) -> Record:
    texts = ("key", "base", "source", "target", "label")
    fields = {name: record[name].decode("utf-8") for name in texts}
    return Record(**(record | fields | {"image": record["image"], "rate": int(record["rate"])}))
