"""The suites over a model, row by row into files; what `python -m lwm.evaluate --suite=…` calls.

OUTPUT/<suite>.jsonl grows by a row for each finished cell, keyed by what was asked, so the same command goes
on where it was stopped. OUTPUT/<suite>.png is drawn from the rows of the command.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from lwm.assessment.clip_answers import check_rows
from lwm.assessment.held_out import clips_of, read_documents, texts_of
from lwm.assessment.subject import Subject
from lwm.data.manifest import load_manifest, write_whole
from lwm.errors import UserError
from lwm.evaluation import cells, figures, multi_needle, needle_grid, positions, ruler, video_qa
from lwm.evaluation.charts import count
from lwm.evaluation.haystack import Haystack
from lwm.evaluation.page import clock
from lwm.evaluation.workdirs import read_rows
from lwm.serving.attachments import read_text

BATCH_TOKENS = 8192  # shorter prompts are answered together
ANSWERS = ("forced", "generated")
_SMALL = 20_000_000  # parameters below which a model is called a miniature


class Wishes(NamedTuple):
    """What is asked; () and "" leave it to the suite. pairs: (N, R) of multi_needle. See the verb's flags."""

    lengths: Sequence[int] = ()
    depths: Sequence[int] = (0, 25, 50, 75, 100)
    samples: int = 5
    pairs: Sequence[tuple[int, int]] = ((2, 2), (4, 1), (4, 2), (4, 4))
    tasks: Sequence[str] = ()
    frames: Sequence[int] = (16, 64)
    answer: str = ""
    haystack: str = ""
    seed: int = 0


class Suite(NamedTuple):
    """rows: (subject, wishes, answer, "skip" and "track") -> rows; draw: (rows, title, trained) -> figure."""

    title: str
    rows: Callable[[Subject, Wishes, cells.Answer, dict], Iterator[dict[str, Any]]]
    draw: Callable[..., Any]


def check(names: Sequence[str]) -> None:
    """UserError unless every name is a suite's; "heldout" is held_out.py's."""
    if unknown := [name for name in names if name not in ("heldout", *SUITES)]:
        raise UserError(f"suite: {unknown[0]!r} is not known; choose from heldout, {', '.join(SUITES)}")


def run(name: str, subject: Subject, wishes: Wishes, output: epath.PathLike) -> list[dict[str, Any]]:
    """Runs what is not yet in OUTPUT/<name>.jsonl, prints and writes each row, draws; returns all such rows.

    Raises:
      UserError: an unknown suite or answer, or wishes that the suite or the haystack cannot meet.
    """
    check([name])
    if wishes.samples < 1 and name != "positions":
        raise UserError(f"samples: {wishes.samples} prompts a cell measure nothing; give at least 1")
    if wishes.answer and wishes.answer not in ANSWERS:
        raise UserError(f"answer: {wishes.answer!r} is not known; choose from {', '.join(ANSWERS)}")
    suite, trained, output = SUITES[name], subject.block["context_length"], epath.Path(output)
    how = wishes.answer or ("generated" if subject.template == "chat" else "forced")
    how = {"ruler": "generated", "positions": "forced"}.get(name, how)
    fixed = {
        "model": subject.name,
        "stage": subject.block["name"],
        "step": subject.step,
        "rope_theta": subject.rope_theta,
        "trained_length": trained,
        "haystack": epath.Path(wishes.haystack).name or "held out",
        "template": subject.template,
        "answer": how,
    }
    output.mkdir(parents=True, exist_ok=True)
    path = output / f"{name}.jsonl"
    rows = read_rows(path)

    def known(about: dict[str, Any]) -> bool:
        return any(_holds(row, fixed | about) for row in rows)

    if how == "forced":
        answer = cells.forced(subject.score.greedy, subject.tokenizer, batch_tokens=BATCH_TOKENS)
    else:
        answer = cells.generated(subject.generate, batch_tokens=BATCH_TOKENS)
    for row in suite.rows(subject, wishes, answer, {"skip": known, "track": track}):
        row = fixed | row | {"note": "beyond trained length" if row["length"] > trained else ""}
        rows.append(row)
        print(line(row), flush=True)
        if jax.process_index() == 0:
            write_whole(path, "".join(json.dumps(one) + "\n" for one in rows).encode())
    drawn = {"samples": wishes.samples, "seed": wishes.seed}
    own = [row for row in rows if _holds({"seed": wishes.seed} | row, fixed | drawn)]
    if own and jax.process_index() == 0:
        size = f"{count(subject.parameters)} parameters" + ", miniature" * (subject.parameters < _SMALL)
        numbers = sorted({row["n"] for row in own})
        n = f"n = {numbers[0]}" if len(numbers) == 1 else f"n = {numbers[0]} to {numbers[-1]}"
        title = f"{subject.name} ({size}): {suite.title}, {n}"
        figures.save(suite.draw(own, title=title, trained=trained), output / f"{name}.png")
    return own


def track(due: Sequence[cells.Cell], title: str) -> Iterator[cells.Cell]:
    """Yields the cells and says on stderr how many are done and how long the rest may take."""
    start, total, done = time.monotonic(), sum(cell.about["length"] for cell in due), 0
    for index, cell in enumerate(due, start=1):
        yield cell
        done += cell.about["length"]
        left = clock((time.monotonic() - start) / done * (total - done))
        rest = f", about {left} left" if index < len(due) else ""
        print(f"{title}: {index} of {len(due)}{rest}", file=sys.stderr, flush=True)


def line(row: dict[str, Any]) -> str:
    """A row for people: what was asked, the share or the loss, its interval."""
    names = ("task", "kind", "length", "depth", "needles", "asked", "frames", "shown", "start", "end")
    what = " ".join(f"{name}={row[name]}" if name != "task" else row[name] for name in names if name in row)
    value = row["share"] if "share" in row else row["nats"]
    interval = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    unit = "" if "share" in row else f" nats, perplexity {row['perplexity']:.4g}"
    note = f" ({row['note']})" if row["note"] else ""
    return f"{what}: {value:.3g}{interval}{unit}, n={row['n']}, {row['seconds']} s{note}"


def _holds(row: dict[str, Any], fields: dict[str, Any]) -> bool:
    return all(name in row and row[name] == value for name, value in fields.items())


def _lengths(subject: Subject, wishes: Wishes) -> list[int]:
    """Those asked for, else an eighth, a quarter, half and all of the trained length, from 512 tokens on."""
    whole = subject.block["context_length"]
    lengths = list(wishes.lengths) or [n for n in (whole // 8, whole // 4, whole // 2) if n >= 512] + [whole]
    check_rows(jax.device_count(), {"lengths": max(lengths)})
    return sorted(set(lengths))


def _documents(subject: Subject, wishes: Wishes) -> list[np.ndarray]:
    """Ids of the haystack file, or of the held-out text of the stage's mixture."""
    if wishes.haystack:
        return [np.asarray(subject.tokenizer.encode(read_text("haystack", wishes.haystack)), np.int32)]
    if not subject.data:
        raise UserError("haystack: an imported model holds out no text; give a file by --haystack=FILE.txt")
    return texts_of(read_documents(subject.data, subject.block["mixture"], "heldout"))


def _haystack(subject: Subject, wishes: Wishes) -> Haystack:
    name = wishes.haystack or "the held-out text"
    return Haystack(subject.tokenizer, _documents(subject, wishes), name)


def _grid(subject: Subject, wishes: Wishes, options: dict) -> dict:
    """What the suites over text share."""
    lengths, haystack = _lengths(subject, wishes), _haystack(subject, wishes)
    asked = {"lengths": lengths, "samples": wishes.samples, "seed": wishes.seed}
    return {"wrap": subject.wrap, "haystack": haystack} | asked | options


def _needle(subject, wishes, answer, options):
    return needle_grid.evaluate(answer, **_grid(subject, wishes, options), depths=wishes.depths)


def _multi_needle(subject, wishes, answer, options):
    return multi_needle.evaluate(answer, **_grid(subject, wishes, options), pairs=wishes.pairs)


def _ruler(subject, wishes, answer, options):
    tasks = {"tasks": wishes.tasks} if wishes.tasks else {}
    return ruler.evaluate(answer, **_grid(subject, wishes, options), **tasks)


def _positions(subject, wishes, answer, options):
    return positions.evaluate(
        subject.score.nll,
        subject.tokenizer,
        _documents(subject, wishes),
        lengths=_lengths(subject, wishes),
        samples=wishes.samples,
        batch_tokens=BATCH_TOKENS,
        name=wishes.haystack or "the held-out text",
        **options,
    )


def _video_qa(subject, wishes, answer, options):
    if not subject.data:
        raise UserError("suite: video_qa needs frames, and an imported model has no data folder; give --data")
    manifest, mixture = load_manifest(subject.data), subject.block["mixture"]
    if not manifest["codes"]:
        raise UserError(
            f"suite: video_qa needs frames, and {subject.data} has text alone; prepare with --vqgan"
        )
    clips = clips_of(read_documents(subject.data, mixture, "heldout"), manifest)
    layout = video_qa.Layout(*(manifest[name] for name in ("vision_start", "vision_end", "eof", "eov")))
    frame = manifest["codes_per_frame"] + 1
    scenes = [np.asarray(clip.tokens).reshape(-1, frame)[:, :-1] for clip in clips]
    tasks = {"tasks": wishes.tasks} if wishes.tasks else {}
    asked = {"frames": wishes.frames, "samples": wishes.samples, "seed": wishes.seed}
    return video_qa.evaluate(answer, subject.tokenizer, scenes, layout, **asked, **tasks, **options)


def _draw_curves(label: Callable[[dict], str], **how) -> Callable[..., Any]:
    def draw(rows, *, title, trained):
        return figures.curves(rows, title=title, label=label, **{"trained": trained} | how)

    return draw


SUITES = {
    "needle": Suite(
        "single needle", _needle, lambda rows, title, trained: figures.heat_map(rows, title=title)
    ),
    "multi_needle": Suite(
        "several needles", _multi_needle, _draw_curves(lambda row: f"{row['asked']} of {row['needles']}")
    ),
    "ruler": Suite("tasks after RULER", _ruler, _draw_curves(lambda row: row["kind"].replace("_", " "))),
    "positions": Suite("loss by position", _positions, figures.loss_by_position),
    "video_qa": Suite(
        "questions about clips",
        _video_qa,
        _draw_curves(
            lambda row: f"{row['kind']}, {'all' if row['shown'] == row['frames'] else row['shown']} frames",
            x="frames",
            x_label="frames of the clip",
            trained=0,
        ),
    ),
}
