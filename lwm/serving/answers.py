"""What a MultiModel answers to one text, picture or sound that a person brings, in one of its tasks."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lwm.data.task_records import KINDS
from lwm.data.task_sources.stamps import on_square
from lwm.data.video import BrokenMedia
from lwm.data.waveforms import read_wav
from lwm.errors import UserError
from lwm.generation.beam import write_texts
from lwm.limits import suggest
from lwm.serving.task_runs import TaskRun

# What a kind of task reads, and the flag that gives it.
_FLAGS = {"image": "image", "waveform": "audio", "source": "prompt"}


class Given(NamedTuple):
    """prompt: a text · image, audio: names of files. One of them is given, the others are ""."""

    prompt: str = ""
    image: str = ""
    audio: str = ""


def answer(run: TaskRun, task: str, given: Given, *, beams: int = 1) -> str:
    """The likeliest label of a picture, or the text that the model writes.

    Args:
      task: of `run.tasks`.
      beams: of `generation.beam`, 1 = greedy.

    Raises:
      UserError: a task that it did not learn, something else than the task reads, a file that cannot be read,
        more than the model takes.
    """
    if task not in run.tasks:
        raise UserError(f"task: {task!r} is none that the model learned; {suggest(task, run.tasks)}")
    config = run.model.config
    kind = config.kinds[config.tasks.index(task)]
    reads = _FLAGS[KINDS[kind][0]]
    for flag, value in given._asdict().items():
        if value and flag != reads:
            raise UserError(f"{flag}: {value!r}, but task {task} reads {reads}; give --{reads} alone")
    if not getattr(given, reads).strip():
        raise UserError(f"{reads}: '' is nothing for task {task} to read; give --{reads}")
    rows = _READERS[reads](run, getattr(given, reads))
    rows |= {"task": np.int32(config.tasks.index(task)), "weights": np.float32(1)}
    rows = {name: np.asarray(own)[None] for name, own in rows.items()}
    if kind == "classify":
        return run.label(int(run.model.predict_labels(run.params, rows)[0]))
    (words_T,) = np.asarray(write_texts(run.model, run.params, rows, beams=beams).words_BT)
    return run.tokenizer.decode([int(word) for word in words_T if word not in (0, config.eos)])


def _picture(run: TaskRun, path: str) -> dict[str, np.ndarray]:
    read = functools.partial(on_square, side=run.model.config.resolution)
    return {"images": _file("image", path, read)}


def _sound(run: TaskRun, path: str) -> dict[str, np.ndarray]:
    config = run.model.config
    heard = _file("audio", path, functools.partial(read_wav, rate=config.sample_rate))
    if len(heard) > config.samples:
        seconds, most = len(heard) / config.sample_rate, config.samples / config.sample_rate
        raise UserError(f"audio: {path} takes {seconds:.1f} s, the model hears {most:.1f} s; cut it")
    waveform = np.zeros(config.samples, np.float32)
    waveform[: len(heard)] = heard / np.float32(2**15)
    return {"waveform": waveform, "samples": np.int32(len(heard))}


def _text(run: TaskRun, text: str) -> dict[str, np.ndarray]:
    ids = [*run.tokenizer.encode(text), run.tokenizer.eos]
    if len(ids) > (most := run.model.config.source_length):
        raise UserError(f"prompt: {len(ids)} tokens, the model reads {most}; shorten it")
    return {"source": np.pad(np.asarray(ids, np.int32), (0, most - len(ids)))}


def _file(flag: str, path: str, read: Callable[[Path], np.ndarray]) -> np.ndarray:
    try:
        if not Path(path).is_file():
            raise BrokenMedia("is not a file")
        return read(Path(path))
    except BrokenMedia as error:
        raise UserError(f"{flag}: {path} {error}; give another file") from error


_READERS = {"image": _picture, "audio": _sound, "prompt": _text}
