"""From unpacked packages to a folder of tasks; whole, or not at all.

    OUTPUT/tasks.json            what it holds
    OUTPUT/tokenizer.model       one vocabulary for the texts of all tasks
    OUTPUT/task_records/<task>   the samples

Everything is made in OUTPUT.part, which is renamed at the end.
"""

import functools
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from lwm.data import progress
from lwm.data.manifest import finished, making, write_json
from lwm.data.task_records import TASKS_JSON, Record, check_modality, load_tasks, write_task
from lwm.data.task_sources.reading import Reading, stop
from lwm.data.tasks import TASKS, Task, bases
from lwm.data.tokenizers import train_sentencepiece
from lwm.data.workers import Workers
from lwm.errors import UserError

SPLITS = ("train", "heldout")
_SHARE = 1_000_000  # characters of a source that the vocabulary is trained on: no source drowns the others
Samples = dict[str, dict[str, list[Record]]]  # task -> split -> records


class Limits(NamedTuple):
    """Longest source and target in tokens with the end of text, longest waveform in samples."""

    source: int
    target: int
    samples: int


def prepare_tasks(
    *,
    sources: str,
    output: epath.PathLike,
    tasks: Mapping[str, Task] = TASKS,
    resolution: int = 64,
    vocab_size: int = 2048,
    rate: int = 8000,
    max_source: int = 64,
    max_target: int = 64,
    max_seconds: float = 8.0,
    heldout: float = 0.15,
    seed: int = 0,
    skip_damaged: bool = False,
    library: str = "",
    track: progress.Track = progress.lines,
    workers: Workers | None = None,
) -> dict:
    """Makes the folder `output` from the packages in `sources` and returns its tasks.json, see `load_tasks`.

    Args:
      resolution, rate, library: see `Reading`.
      vocab_size: pieces of the vocabulary, which is trained on what is not held out.
      max_source, max_target, max_seconds: samples that are longer are left out and counted.
      heldout: chance of an item to be held out, by a hash of `seed` and its name: in all tasks, or in none.
      skip_damaged: leave damaged files out and list them, instead of stopping at the first.
      workers: where records are written; None = here. The packages are read here.

    Raises:
      UserError: a setting that makes no sense or differs from that of a finished `output`, a package that is
      missing, a damaged file, a sample whose modality does not fit its task, a task without samples.
    """
    settings = {
        "resolution": resolution,
        "vocab_size": vocab_size,
        "rate": rate,
        "max_source": max_source,
        "max_target": max_target,
        "max_seconds": max_seconds,
        "heldout": heldout,
        "seed": seed,
        "skip_damaged": skip_damaged,
    }
    _check(settings)
    output = epath.Path(output)
    if done := finished(output, TASKS_JSON, load_tasks, settings):
        return done
    damaged: list[str] = []
    reading = Reading(
        sources,
        resolution,
        rate,
        (lambda error: damaged.append(str(error))) if skip_damaged else stop,
        library,
    )
    samples = _by_split(_read(reading, tasks, track), tasks, heldout, seed)
    tokenizer = train_sentencepiece(training_texts(samples), vocab_size)
    length = functools.cache(lambda text: len(tokenizer.encode(text)) + 1)
    limits = Limits(max_source, max_target, round(max_seconds * rate))
    classes = sorted({one.label for own in samples.values() for one in own["train"] if one.label})
    about = {}
    for name, own in samples.items():
        kept, dropped = _fitting(own, length, limits, frozenset(classes))
        for split in SPLITS:
            if not kept[split]:
                raise UserError(
                    f"task {name}: no sample is left in split {split!r} of {sum(map(len, own.values()))}; "
                    "change heldout, raise the limits or add samples"
                )
        samples[name] = kept
        about[name] = {"kind": tasks[name].kind, **{split: len(kept[split]) for split in SPLITS}}
        about[name] |= _lengths([*kept["train"], *kept["heldout"]], length) | {"dropped": dropped}
    done = {
        "tasks": about,
        "classes": classes,
        "vocab_size": tokenizer.vocab_size,
        "eos": tokenizer.eos,
        "resolution": resolution,
        "rate": rate,
        "max_samples": max(one["samples"]["longest"] for one in about.values()),
        "damaged": damaged,
        "python": ".".join(map(str, sys.version_info[:3])),  # whose library the expressions are from
        "settings": settings,
    }
    with making(output) as draft:
        for name, content in tokenizer.files.items():
            (draft / name).write_bytes(content)
        for name in track(samples, "tasks", len(samples), "written"):
            write_task(draft, name, samples[name], workers=workers)
        write_json(draft / TASKS_JSON, done)
    return done


def is_heldout(base: str, fraction: float, seed: int) -> bool:
    """Whether an item is held out: a hash alone says so, whatever else there is."""
    digest = hashlib.sha256(f"{seed}:{base}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def training_texts(samples: Samples) -> Iterator[str]:
    """Yields texts that are not held out, each once, at most a share of each task in the order of a hash."""
    seen = set()
    for own in samples.values():
        left = _SHARE
        for record in sorted(own["train"], key=lambda one: hashlib.sha256(one.key.encode()).digest()):
            for text in (record.source, record.target):
                if text and text not in seen and left > 0:
                    seen.add(text)
                    left -= len(text)
                    yield text


def _check(settings: dict) -> None:
    for name in ("resolution", "vocab_size", "rate", "max_source", "max_target", "max_seconds"):
        if not settings[name] > 0:
            raise UserError(f"{name}: {settings[name]} is not positive; leave it out to take the default")
    if not 0 < settings["heldout"] < 1:
        raise UserError(
            f"heldout: {settings['heldout']} is not a share between 0 and 1; give for example 0.15"
        )


def _read(reading: Reading, tasks: Mapping[str, Task], track: progress.Track) -> dict[str, list[Record]]:
    """The records of each task with their bases; a source that several tasks share is read once."""
    readers = list(dict.fromkeys(task.read for task in tasks.values()))
    read = {one: list(one(reading)) for one in track(readers, "sources", len(readers), "read")}
    prose = {task.read: task.prose for task in tasks.values()}
    base = bases((record, prose[one]) for one, records in read.items() for record in records)
    return {
        name: [task.view(one._replace(base=base[one.base])) for one in read[task.read]]
        for name, task in tasks.items()
    }


def _by_split(
    records: dict[str, list[Record]], tasks: Mapping[str, Task], heldout: float, seed: int
) -> Samples:
    samples: Samples = {}
    for name, own in records.items():
        samples[name] = {split: [] for split in SPLITS}
        for one in own:
            check_modality(one, name, tasks[name].kind)
            samples[name]["heldout" if is_heldout(one.base, heldout, seed) else "train"].append(one)
    return samples


def _fitting(
    own: dict[str, list[Record]], length: Callable[[str], int], limits: Limits, classes: frozenset[str]
) -> tuple[dict[str, list[Record]], dict[str, int]]:
    """The records that the model can take, and how many are left out for which reason."""
    kept, dropped = {}, Counter()
    for split, records in own.items():
        kept[split] = []
        for one in records:
            reasons = {
                "long source": length(one.source) > limits.source,
                "long target": length(one.target) > limits.target,
                "long waveform": len(one.waveform) > limits.samples,
                "label not in training": one.label not in classes and one.label != "",
            }
            if any(reasons.values()):
                dropped[next(reason for reason, holds in reasons.items() if holds)] += 1
            else:
                kept[split].append(one)
    return kept, dict(dropped)


def _lengths(records: Iterable[Record], length: Callable[[str], int]) -> dict[str, dict[str, int]]:
    """Median, 95 % and longest of source and target in tokens, with the end, and of waveforms in samples."""
    records = list(records)
    sizes = {
        "source": [length(one.source) for one in records if one.source],
        "target": [length(one.target) for one in records if one.target],
        "samples": [len(one.waveform) for one in records],
    }
    return {
        name: dict(
            zip(
                ("median", "most", "longest"),
                map(int, np.percentile(of or [0], [50, 95, 100], method="higher")),
                strict=True,
            )
        )
        for name, of in sizes.items()
    }
