"""What the tasks of MultiModel score without a model: the commonest answer, none, the question itself.

Question  What has a model to beat, on the samples that it is scored on?
Command   python -m experiments.multimodel_baselines --data=runs/multimodel/data
          writes experiments/results/multimodel_baselines.csv, a row for each task and score: of the
          commonest answer in training, the empty one (of which character errors are 1) and the copy of the
          question; "nats" are those of a token, or a label, by how often it came in training.
Hardware  one CPU core, seconds.
"""

import argparse
import sys
from collections.abc import Iterator

from experiments import sweeps
from lwm.errors import UserError

COLUMNS = ("task", "kind", "score", "value", "train", "heldout", "commit", "command")
COMMAND = "python -m experiments.multimodel_baselines --data=runs/multimodel/data"
KEY = ("task", "score")


def scores(data_dir: str, task: str, kind: str) -> Iterator[tuple[str, float]]:
    """Yields name and value of each baseline of a task on its held-out samples."""
    from lwm.data.task_records import KINDS, task_records
    from lwm.data.tokenizers import load_tokenizer
    from lwm.evaluation import task_baselines

    reads, learns = KINDS[kind]
    train, held = (list(task_records(data_dir, task, split)) for split in ("train", "heldout"))
    known, wanted = ([getattr(one, learns) for one in records] for records in (train, held))
    if learns == "label":
        yield from task_baselines.label_baselines(known, wanted)
        return
    yield from task_baselines.text_baselines(known, wanted)
    tokenizer = load_tokenizer(f"{data_dir}/tokenizer.model")
    ids = [[[*tokenizer.encode(text), tokenizer.eos] for text in texts] for texts in (known, wanted)]
    yield "unigram_nats", task_baselines.unigram_nats(*ids, tokenizer.vocab_size)
    if reads == "source":
        yield from task_baselines.copy_baselines([one.source for one in held], wanted)


def main() -> None:
    from lwm.data.task_records import load_tasks

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="what experiments.multimodel_data has made")
    parser.add_argument("--output", default="experiments/results/multimodel_baselines.csv")
    chosen = parser.parse_args()
    try:
        fill(sweeps.Table(chosen.output, COLUMNS, KEY), chosen.data, load_tasks(chosen.data)["tasks"])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def fill(table: sweeps.Table, data_dir: str, tasks: dict) -> None:
    """Adds the rows that are not there; `tasks` is that of tasks.json."""
    for task, about in tasks.items():
        for score, value in scores(data_dir, task, about["kind"]):
            if not table.has(task=task, score=score):
                row = {"task": task, "kind": about["kind"], "score": score, "value": value}
                row |= {"train": about["train"], "heldout": about["heldout"], "commit": sweeps.commit()}
                table.add(row | {"command": COMMAND})


if __name__ == "__main__":
    main()
