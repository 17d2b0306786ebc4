"""What a MultiModel answers to held-out samples of the tasks that its stage learned from.

Every task is asked for as many samples, the same ones for every model; the answers are written greedily, or
by beams. Baselines are of the same samples. Which experts were chosen is measured on the right texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from lwm.data.task_batches import make_task_batches
from lwm.data.task_records import KINDS, task_records
from lwm.errors import UserError
from lwm.evaluation import task_baselines, task_scores
from lwm.evaluation.perplexity import Track
from lwm.evaluation.routing import routing
from lwm.generation.beam import write_texts
from lwm.models.multimodel_routing import expert_choices
from lwm.serving.task_runs import TaskRun, open_tasks

SAMPLES = 256  # of a task
_ROWS = 64  # answered together
_SEED = 1_000_000  # of the samples
_SIZES = ("tasks", "resolution", "samples", "source_length", "target_length")


class Asked(NamedTuple):
    """Samples of one task: rows {name: array [n, …]} as in a batch, and their texts."""

    kind: str
    rows: dict[str, np.ndarray]
    sources: list[str]
    wanted: list[str]


def evaluate_tasks(
    workdir: epath.PathLike,
    *,
    data: str = "",
    stage: str | None = None,
    tasks: Sequence[str] = (),
    samples: int = SAMPLES,
    beams: int = 1,
    track: Track,
) -> list[dict]:
    """A row for each score of each task that a stage learned from.

    A row is {"name", "task", "score", "value", "low", "high", "unit", "baseline", "baseline_name", "n",
    "stage"}; see `task_scores`. Tasks whose labels were shuffled are left out. If experts were chosen, the
    scores "routing_encoder" and "routing_decoder" of the tasks "all" and "text" (those from text to text) say
    what experts know of them; their baseline is the 97.5 % quantile of permuted tasks (`evaluation.routing`).
    If places at experts are limited, "dropped" of the task "all" is the share of choices that got none while
    right answers were read.

    Args:
      tasks: those to ask about, () = all that it learned from.
      samples: of each task, at most; 0 = all that are held out. beams: 1 = greedy.

    Raises:
      UserError: of `open_tasks`; or nothing of a task is held out, or too long for the model.
    """
    run = open_tasks(workdir, data=data, stage=stage, tasks=tasks)
    # All that can be wrong with any task comes before the first answer.
    streams = {task: _stream(run, task, samples) for task in run.tasks}
    read, stage = _reader(run.model), run.block["name"]
    rows, choices, traffic = [], {}, np.zeros(2)
    for task in track(run.tasks, "answers"):
        asked = _asked(run, task, next(streams[task]))
        found = [read(run.params, asked.kind, part) for part in _parts(asked.rows)]
        traffic += sum(own.traffic for own in found)
        for name in found[0].choices:
            parts = [own.choices[name] for own in found]
            choices.setdefault(name, []).append((task, asked.kind, np.concatenate(parts)))
        answers = task_scores.Read(*map(np.concatenate, zip(*(own.read for own in found), strict=True)))
        if asked.kind == "classify":
            scores = task_scores.label_scores(answers)
        else:
            scores = task_scores.text_answer_scores(write(run, asked, beams), asked.wanted, answers)
        baselines = task_scores.best_baselines(dict(baselines_of(run, task, asked)))
        rows += [_row(task, score, baselines, len(asked.wanted), stage) for score in scores]
    if run.model.config.evaluation_capacity and traffic[0]:
        rows.append(_dropped_row(*traffic, stage))
    return [*rows, *_routing_rows(choices, stage)]


def ask(run: TaskRun, task: str, samples: int) -> Asked:
    """The first held-out samples of a task in an order of our own; 0, or more than there are = all of them.

    Raises UserError if none is held out, or if they do not fit into the model.
    """
    return _asked(run, task, next(_stream(run, task, samples)))


def _stream(run: TaskRun, task: str, samples: int) -> Iterator[dict]:
    if not (held := run.manifest["tasks"][task]["heldout"]):
        raise UserError(f"data: {run.data} holds out no sample of {task}; prepare some, or leave it out")
    sizes = {name: getattr(run.model.config, name) for name in _SIZES}
    count = min(samples or held, held)
    common = {"split": "heldout", "mixture": {task: 1.0}, "batch_size": count, "seed": _SEED}
    return make_task_batches(run.data, **common, **sizes)


def _asked(run: TaskRun, task: str, batch: Mapping[str, dict]) -> Asked:
    kind = run.manifest["tasks"][task]["kind"]
    rows = batch[kind]

    def texts(name):
        if name not in rows:
            return []
        return [_text(run.tokenizer, ids, run.model.config.eos) for ids in rows[name]]

    wanted = [run.manifest["classes"][at] for at in rows["labels"]] if kind == "classify" else []
    return Asked(kind, rows, texts("source"), wanted or texts("targets"))


def write(run: TaskRun, asked: Asked, beams: int = 1) -> list[str]:
    """The texts that the model answers."""
    found = []
    for rows in _parts(asked.rows):
        given = {name: own for name, own in rows.items() if name != "targets"}
        words_BT = np.asarray(write_texts(run.model, run.params, given, beams=beams).words_BT)
        found += [_text(run.tokenizer, ids, run.model.config.eos) for ids in words_BT]
    return found[: len(asked.wanted)]


def baselines_of(run: TaskRun, task: str, asked: Asked) -> Iterator[tuple[str, float]]:
    """Yields name and value of what answers score that need no model, see `task_baselines`."""
    records, tokenizer = task_records(run.data, task, "train"), run.tokenizer
    known = [getattr(records[index], KINDS[asked.kind][1]) for index in range(len(records))]
    if asked.kind == "classify":
        yield from task_baselines.label_baselines(known, asked.wanted)
        return
    yield from task_baselines.text_baselines(known, asked.wanted)
    ids = [[[*tokenizer.encode(text), tokenizer.eos] for text in texts] for texts in (known, asked.wanted)]
    yield "unigram_nats", task_baselines.unigram_nats(*ids, tokenizer.vocab_size)
    yield "unigram_words_right", task_baselines.unigram_words_right(*ids)
    if asked.sources:
        yield from task_baselines.copy_baselines(asked.sources, asked.wanted)


class _Found(NamedTuple):
    """traffic: choices of experts at all mixtures, and those of them without a place."""

    read: task_scores.Read
    choices: dict[str, np.ndarray]
    traffic: np.ndarray


def _reader(model: Any) -> Callable[[Any, str, dict], _Found]:
    """(params, kind, rows) to how right answers were read, and what went on at the experts meanwhile."""

    def outputs(params, batch):
        ((kind, rows),) = batch.items()
        out = model.outputs(params, batch)
        if kind == "classify":
            targets_BT, logits_BTV = rows["labels"][:, None], out.labels_BV[:, None]
            counts_BT = jnp.ones_like(targets_BT, bool)
        else:
            targets_BT, logits_BTV = rows["targets"], out.words_BTV
            counts_BT = targets_BT > 0
        logs_BTV = jax.nn.log_softmax(logits_BTV)
        nll_BT = -jnp.take_along_axis(logs_BTV, targets_BT[..., None], axis=-1)[..., 0]
        right_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
        sums = [jnp.sum(own * counts_BT, axis=1) for own in (nll_BT, right_BT, counts_BT)]
        chosen = expert_choices(out, batch, model.config.experts)
        traffic = [sum(getattr(own, name) for own in out.traffic) for name in ("sent", "dropped")]
        return sums, {name: own.counts_BE for name, own in chosen.items()}, traffic

    compiled = jax.jit(outputs)

    def read(params, kind, rows):
        sums, choices, traffic = jax.device_get(compiled(params, {kind: rows}))
        real_B = rows["weights"] > 0
        return _Found(
            task_scores.Read(*(own[real_B] for own in sums)),
            {name: own[real_B] for name, own in choices.items()},
            np.asarray(traffic, np.float64),
        )

    return read


def _parts(rows: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Pieces of _ROWS rows; the last is filled up by rows of weight 0."""
    n = len(rows["weights"])
    for start in range(0, n, _ROWS):
        at = np.arange(start, start + _ROWS)
        part = {name: own[np.minimum(at, n - 1)] for name, own in rows.items()}
        yield part | {"weights": np.where(at < n, part["weights"], 0).astype(np.float32)}


def _text(tokenizer: Any, ids: np.ndarray, eos: int) -> str:
    ids = [int(item) for item in ids if item]
    return tokenizer.decode(ids[: ids.index(eos)] if eos in ids else ids)


def _row(task: str, score: task_scores.Score, baselines: Mapping, n: int, stage: str) -> dict:
    baseline, name = baselines.get(score.name, (None, None))
    unit = task_scores.SCORES[score.name][0]
    row = {"name": f"{task}_{score.name}", "task": task, "score": score.name, "value": score.value}
    row |= {"low": score.low, "high": score.high, "unit": unit}
    return row | {"baseline": baseline, "baseline_name": name, "n": n, "stage": stage}


def _dropped_row(sent: float, dropped: float, stage: str) -> dict:
    row = {"name": "all_dropped", "task": "all", "score": "dropped", "value": dropped / sent}
    row |= {"low": None, "high": None, "unit": "share", "baseline": None, "baseline_name": None}
    return row | {"n": int(sent), "stage": stage}


def _routing_rows(choices: Mapping[str, list], stage: str) -> Iterator[dict]:
    for mixture, parts in choices.items():
        for name, kinds in (("all", set(KINDS)), ("text", {"translate"})):
            own = [(task, counts_BE) for task, kind, counts_BE in parts if kind in kinds]
            if len(own) < 2:
                continue
            task_B = np.concatenate([np.full(len(counts), at) for at, (_, counts) in enumerate(own)])
            found = routing(task_B, np.concatenate([counts_BE for _, counts_BE in own]))
            score = f"routing_{mixture}"
            row = {"name": f"{name}_{score}", "task": name, "score": score, "value": found.nats}
            row |= {"low": found.low, "high": found.high, "unit": "nats", "baseline": found.bound}
            row |= {"baseline_name": f"97.5 % of permuted tasks, mean {found.null:.2g}, p {found.p:.2g}"}
            yield row | {"n": found.rows, "stage": stage}
