"""What masked sequence packing is worth: segments that do not see each other, and losses that count examples.

Question  Of the two parts of LWM's packing, which helps: the mask, the weights, or both together?
Paper     2402.08268, section 4 and table 10: naive packing against LWM's, +7 to +13 points on three image
          benchmarks; there, too, of a model that had been trained before, but both parts at once.
Command   python -m experiments.packing_ablation --corpus=runs/needle --workdir=runs/packing
          rows that are there are not made again. One of them alone: --only=naive,0
Hardware  two CPU cores.
Data      source "mixed": in a row of 512 tokens stand passages of the plays, learned from end to end, drills,
          and questions about lines hidden in passages, of which only the answers are learned, a tenth of
          their tokens: two thirds of what is learned are passages, though they are a sixth of the
          documents. Lines are about eight cities only, so that those of a row contradict each other.
Expected  the more of the two, the more questions answered; the loss on passages may go the other way, since
          weights by token favour them. Our run is in experiments/README.md.

The four arms of a seed begin with the same weights, those of a model that finds a line in 256 tokens (arm
"none" of experiments/context_extension.py). From random weights, 3,500 steps of "both" were not enough to
learn that (33 of 1,065 answered; seed 0, miniature), which says nothing about packing.

Arms: "naive" (one segment a row, positions run on, every learned token weighs the same), "mask" (segments and
positions of the examples, weights by token), "weights" (one segment, weights by example), "both" (ours). All
see the same batches in the same order, with losses of the same scale. Questions and passages are then scored
alone, one to a row, as a user would ask.
"""

import math
import pathlib

import ml_collections

from experiments import arguments, needle_miniature, sweeps

ARMS = {
    "naive": (False, "token"),
    "mask": (True, "token"),
    "weights": (False, "example"),
    "both": (True, "example"),
}
SEEDS, CONTEXT = (0, 1, 2), 512
KEY = ("arm", "seed")
COLUMNS = (
    *KEY,
    *("questions", "right", "accuracy", "low", "high", "answer_nats", "passage_nats", "passages"),
    *("steps", "tokens", "seconds", "commit", "note", "command"),
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of an `arm` (this script takes the mask away, no field does); `quicktest`: two steps."""
    chosen = arguments.parse(argument, arm="both", quicktest=False)
    if chosen.arm not in ARMS:
        raise ValueError(f"config argument arm={chosen.arm!r}: not known; known are {', '.join(ARMS)}")
    config = needle_miniature.get_config()
    config.experiment = f"packing_{chosen.arm}"
    stage = needle_miniature.stage(CONTEXT, 1e4, 2000, {}, rates=(1e-3, 2e-4), rows=4, warmup=50)
    stage |= {"mixture": {"mixed": 1.0}, "weighting": ARMS[chosen.arm][1], "eval_every": 0}
    config.stages = ml_collections.ConfigDict({"packed": stage})
    if chosen.quicktest:
        config.stages.packed.steps, config.stages.packed.warmup_steps = 2, 1
    return config


def unmasked(batch: dict) -> dict:
    """The same rows as one segment each, with losses of the same scale: L is a mean over segments."""
    import numpy as np

    examples, rows = batch["segments"].max(axis=1).sum(), len(batch["segments"])
    places = np.arange(batch["segments"].shape[1], dtype=np.int32)
    return batch | {
        "segments": (batch["segments"] > 0).astype(np.int32),
        "positions": np.broadcast_to(places, batch["positions"].shape).copy(),
        "weights": (batch["weights"] * (rows / examples)).astype(np.float32),
    }


class Unmasked:
    """A stream of batches without their masks."""

    def __init__(self, batches):
        self._batches = batches
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __iter__(self):
        return self

    def __next__(self) -> dict:
        return unmasked(next(self._batches))


def train(arm: str, seed: int, data: str, first: str, workdir: str) -> None:
    """Trains an arm from the weights of the workdir `first`, or goes on with it."""
    import dataclasses

    from lwm.systems import build_model
    from lwm.training import inputs, loop
    from lwm.training.experiment import build_experiment

    def open_batches(*arguments, **named):
        batches = inputs.open_batches(*arguments, **named)
        return batches if ARMS[arm][0] else Unmasked(batches)

    config = get_config(f"arm={arm}").to_dict()
    experiment = build_experiment(config | {"seed": seed, "data": {"path": data}, "init": first})
    ended = loop.train(
        experiment,
        workdir,
        build_model=lambda stage: build_model(experiment.model, dataclasses.asdict(stage)),
        open_batches=open_batches,
    )
    if ended is not None:
        raise SystemExit(128 + ended)


def measure(data: str, workdir: str) -> dict:
    """Held-out documents of "mixed", each alone: questions answered in full, nats a token of passages."""
    import numpy as np

    from lwm.data import datasets
    from lwm.data.fields import parse_fields
    from lwm.data.manifest import load_manifest
    from lwm.data.streams import Marks, example_of
    from lwm.evaluation.intervals import wilson
    from lwm.evaluation.scorer import Scorer
    from lwm.evaluation.windows import Scored, pack
    from lwm.systems import build_model
    from lwm.training.checkpoints import load_params

    config, stage, params = load_params(workdir)
    scorer = Scorer(build_model(config["model"], stage), params)
    marks, documents = Marks.of(load_manifest(data)), datasets.documents(data, "mixed", "heldout")
    questions, passages = [], []
    for document in (documents[i] for i in range(len(documents))):
        groups = parse_fields(document.fields[0])
        example = example_of(document, groups, marks, slots=CONTEXT, draw=0.0)
        # The end of a document is learned too, but says nothing of the answer.
        counted = example.loss & (np.arange(len(example.loss)) < len(example.loss) - 1)
        kind = passages if example.splits else questions
        kind.append(Scored(example.tokens, example.is_vision, counted))

    def scores(sequences):
        nats, hits = [], []
        for batch in pack(sequences, length=CONTEXT, batch_size=8):
            nll_BT, hit_BT = scorer.greedy(batch)
            nats.append(nll_BT[batch["weights"] > 0])
            hits.append(hit_BT[batch["weights"] > 0])
        return np.concatenate(nats), np.concatenate(hits)

    nats, hits = scores(questions)
    ends = np.cumsum([question.counted.sum() for question in questions])[:-1]
    right = int(sum(part.all() for part in np.split(hits, ends)))
    low, high = wilson(right, len(questions))
    return {
        "questions": len(questions),
        "right": right,
        "accuracy": right / len(questions),
        "low": low,
        "high": high,
        "answer_nats": float(np.mean(nats)),
        "passage_nats": float(np.mean(scores(passages)[0])),
        "passages": len(passages),
    }


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Questions answered by each arm; and what its tokens cost, against "naive" of the same seed."""
    from matplotlib.figure import Figure

    from lwm.evaluation import figures
    from lwm.evaluation.intervals import student, wilson

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    answered, *costs = figure.subplots(1, 3)
    of = {arm: {row["seed"]: row for row in rows if row["arm"] == arm} for arm in ARMS}
    for place, own in enumerate(of.values()):
        right, n = (sum(int(row[name]) for row in own.values()) for name in ("right", "questions"))
        if n:
            _bar(
                answered, place, right / n, wilson(right, n), [float(row["accuracy"]) for row in own.values()]
            )
        for name, axes in zip(("answer_nats", "passage_nats"), costs, strict=True):
            pairs = [(row, of["naive"][seed]) for seed, row in own.items() if seed in of["naive"]]
            if pairs and place:
                more = [float(row[name]) - float(naive[name]) for row, naive in pairs]
                _bar(axes, place, sum(more) / len(more), student(more), more)
            axes.set_ylabel(f"{name.replace('_', ': ')} a token, less those of naive")
            axes.axhline(0, color="grey", linewidth=0.8)
    for axes in (answered, *costs):
        axes.set_xticks(range(len(ARMS)), ARMS)
    answered.set_ylim(0, 1)
    answered.set_ylabel("questions answered")
    figure.suptitle(f"Packing (miniature, {len(rows)} runs; right of the bars: single seeds)", fontsize=11)
    figures.save(figure, path)


def _bar(axes, place: int, value: float, interval: tuple[float, float], seeds: list[float]) -> None:
    from lwm.evaluation import figures

    low, high = interval
    bar = [[value - low], [high - value]]
    axes.errorbar([place], [value], yerr=bar, fmt="o", capsize=4, color=figures.COLOURS[0])
    axes.plot([place + 0.1] * len(seeds), seeds, ".", color=figures.COLOURS[1])


def main() -> None:
    chosen, asked = sweeps.arms_and_seeds(__doc__, "packing_ablation", "runs/packing", ARMS, SEEDS)
    needle_miniature.prepare(chosen.corpus)
    data = f"{chosen.corpus}/data"
    table = sweeps.Table(chosen.output, COLUMNS, KEY)
    sweeps.start_devices(2)
    for arm, seed in asked:
        if table.has(arm=arm, seed=seed):
            continue
        first, workdir = (f"{chosen.workdir}/{name}_{seed}" for name in ("first", arm))
        retrieval = ["--config=experiments/context_extension.py:arm=none", f"--config.seed={seed}"]
        sweeps.run("-m", "lwm.train", *retrieval, f"--data={data}", f"--workdir={first}", "--cpu_devices=2")
        train(arm, seed, data, first, workdir)
        last = list(sweeps.rows_of(f"{workdir}/metrics.jsonl"))[-1]
        command = f"python -m experiments.packing_ablation --only={arm},{seed}"
        about = {"arm": arm, "seed": seed, "steps": last["step"], "tokens": last["tokens"]}
        about |= {"seconds": math.ceil(last["seconds"]), "commit": sweeps.commit(), "note": "miniature"}
        table.add(about | measure(data, workdir) | {"command": command})
    draw(table.rows, table.path.with_suffix(".png"))


if __name__ == "__main__":
    main()
