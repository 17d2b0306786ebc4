"""MultiModel in miniature: do eight tasks of four modalities help each other in one model?

Question  One model for eight tasks against one for each: at the same updates of each task, and at the same
          compute. Do tasks with little data gain, and from what: data of other tasks, or any data (labels
          dealt out anew)? What are experts, attention and convolutions worth, and do experts know of tasks?
Paper     "One Model To Learn Them All" (1706.05137), tables 2 to 4.
Command   python -m experiments.multimodel --data=runs/multimodel/short --workdir=runs/multimodel
          rows that are there are not made again, and inside a run training goes on from its checkpoints.
          Some arms: --only='joint,single_*'. Shorter runs, with rows of their own: --steps=0.25.
Data      python -m experiments.multimodel_data --sources=runs/tasks --output=runs/multimodel/short
          --max_source=32 --max_target=32 --max_seconds=5
          on one line: short texts, so that there are more steps in the same time.
Small     python -m lwm.train --config=experiments/multimodel.py:quicktest --workdir=/tmp/multimodel
          --data=runs/multimodel/short
Hardware  two CPU cores.
Expected  the paper: on tasks with little data the joint model is better, on others a little worse.
          Found: see README.md of this folder.
Trials    parsing alone, seed 0, nats over the last fifth of steps. With dropout and smoothing of 0.1: 1,000
          steps of 4 rows 1.29 at a rate of 1e-3, 1.17 at 3e-3; 500 of 8 rows 1.61 at 1e-3, 1.28 at 3e-3, 1.33
          at 6e-3. Without dropout 0.67, without either 0.52, and so at 6e-3 0.90; the wiring of the
          released code, without dropout, 0.99. So both are off here: no run sees its data often.

The arms are those of `multimodel_arms.py`. `:size=paper` is the model of the paper on its eight tasks, for
`lwm.compile`; nobody has trained it here.
"""

import argparse
import os

import ml_collections

from experiments import arguments, multimodel_arms, sweeps

STEPS = 1000
SEEDS, SAMPLES = (0, 1, 2), 256
KEY = ("arm", "seed", "steps", "task", "score")
COLUMNS = (
    *KEY,
    *("value", "low", "high", "n", "baseline", "baseline_name"),
    *("rows", "compute", "seconds", "commit", "note", "command"),
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of an `arm`, times `steps`; `size=paper`; `quicktest`: two steps."""
    chosen = arguments.parse(argument, arm="joint", steps="1", size="tiny", quicktest=False)
    arm = multimodel_arms.ARMS.get(chosen.arm)
    if arm is None or chosen.size not in ("tiny", "paper"):
        raise ValueError(f"config argument arm={chosen.arm!r}, size={chosen.size!r}: not known")
    steps = 2 if chosen.quicktest else steps_of(arm, float(chosen.steps))
    config = {
        "experiment": f"multimodel_{chosen.arm}",
        "seed": 0,
        "model": _model(arm.without) if chosen.size == "tiny" else {"name": "multimodel", "size": "paper"},
        "data": {"path": ""},
        "optimizer": {"b1": 0.9, "b2": 0.98, "eps": 1e-8, "weight_decay": 0.05, "clip": 1.0},
        "stages": {"tasks": _stage(arm, steps) if chosen.size == "tiny" else _paper_stage()},
        "log_every": 20,
        "checkpoint": {"keep": 1},
    }
    return ml_collections.ConfigDict(config)


def steps_of(arm: multimodel_arms.Arm, times: float) -> int:
    """Of a run of an arm, `times` as long as it usually is."""
    return round(STEPS * arm.times * times)


def _model(without: str) -> dict:
    """About 1.4 million parameters; classes, words and lengths are those of the data."""
    return {
        "name": "multimodel",
        "size": "tiny",
        "tasks": tuple(multimodel_arms.TASKS),
        "kinds": tuple(multimodel_arms.TASKS.values()),
        "classes": 16,
        "vocab_size": 2048,
        "samples": 40_064,  # a multiple of the spectrogram's hop
        "source_length": 32,
        "target_length": 32,
        "audio_channels": 8,
        "dropout": 0.0,
        "label_smoothing": 0.0,
        "without": without,
    }


def _stage(arm: multimodel_arms.Arm, steps: int) -> dict:
    return {
        "steps": steps,
        "batch_size": sum(arm.rows.values()),
        "mixture": {task: float(rows) for task, rows in arm.rows.items()},
        "shuffle_labels": arm.shuffled,
        "at_most": arm.at_most,
        "learning_rate": 3e-3,
        "end_learning_rate": 1e-5,
        "warmup_steps": min(100, steps),
        "schedule": "cosine",
        "mesh": {"data": -1},
        "checkpoint_every": 250,
    }


def _paper_stage() -> dict:
    """64 rows of each task over chips of which eight together hold all experts."""
    from lwm.models.multimodel_sizes import SIZES

    return {
        "steps": 1,
        "batch_size": 512,
        "mixture": dict.fromkeys(SIZES["paper"]["tasks"], 1.0),
        "learning_rate": 1e-3,
        "mesh": {"data": -1, "fsdp": 8},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="runs/multimodel/short", help="of experiments.multimodel_data")
    parser.add_argument("--workdir", default="runs/multimodel")
    parser.add_argument("--output", default=str(sweeps.ROOT / "experiments/results/multimodel.csv"))
    sweeps.add_only(parser, multimodel_arms.ARMS)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--steps", type=float, default=1.0, help="times the steps of a run")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="held-out samples of a task")
    parser.add_argument("--note", default="miniature")
    chosen = parser.parse_args()
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    table, steps = sweeps.Table(chosen.output, COLUMNS, KEY), round(STEPS * chosen.steps)
    # Programs are compiled once for all seeds.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(f"{chosen.workdir}/compiled"))
    runs = [(name, seed) for name in chosen.only for seed in seeds]
    steps_by_name = {name: steps_of(multimodel_arms.ARMS[name], chosen.steps) for name in chosen.only}
    asked = [(name, seed) for name, seed in runs if not finished(table, name, seed, steps_by_name[name])]
    for number, (name, seed) in enumerate(asked):
        print(budget(table, asked[number:], steps), flush=True)
        make(table, name, seed, steps_by_name[name], chosen)


def finished(table: sweeps.Table, name: str, seed: int, steps: int) -> bool:
    """Whether there is a row for all that an arm is asked about."""
    scored = multimodel_arms.ARMS[name].scored
    return all(table.has(arm=name, seed=seed, steps=steps, task=task, score="nats") for task in scored)


def budget(table: sweeps.Table, runs: list[tuple[str, int]], steps: int) -> str:
    """How long these runs will take, if a joint run says how fast this machine is; `steps`: of most arms."""
    arms = (multimodel_arms.ARMS[name] for name, _ in runs)
    joints = sum(multimodel_arms.compute(arm) * arm.times for arm in arms)
    seconds = [float(row["seconds"]) / int(row["steps"]) for row in table.rows if row["arm"] == "joint"]
    told = (
        f"{sum(seconds) / len(seconds) * steps * joints / 60:.0f} minutes" if seconds else "time unknown yet"
    )
    return f"{len(runs)} runs left, {joints:.1f} times the work of joint, {told} of training"


def make(table: sweeps.Table, name: str, seed: int, steps: int, chosen: argparse.Namespace) -> None:
    """Trains and asks one arm, and adds its rows."""
    arm, workdir = multimodel_arms.ARMS[name], f"{chosen.workdir}/{name}_{seed}_{steps}"
    config = f"--config=experiments/multimodel.py:arm={name},steps={chosen.steps:g}"
    words = [config, f"--config.seed={seed}", f"--workdir={workdir}", f"--data={chosen.data}"]
    sweeps.run("-m", "lwm.train", *words)
    asked = [f"--workdir={workdir}", f"--samples={chosen.samples}", f"--tasks={','.join(arm.scored)}"]
    sweeps.run("-m", "lwm.evaluate", *asked)
    last = list(sweeps.rows_of(f"{workdir}/metrics.jsonl"))[-1]
    about = {"arm": name, "seed": seed, "steps": steps, "compute": multimodel_arms.compute(arm)}
    about |= {"seconds": round(last["seconds"]), "commit": sweeps.commit(), "note": chosen.note}
    about["command"] = f"python -m experiments.multimodel --only={name} --seeds={seed}"
    if chosen.steps != 1:
        about["command"] += f" --steps={chosen.steps:g}"
    for row in sweeps.rows_of(f"{workdir}/evaluation.jsonl"):
        told = {name: value for name, value in row.items() if value is not None}
        sweeps.gather(table, [told | about | {"rows": arm.rows.get(row["task"], "")}])


if __name__ == "__main__":
    main()
