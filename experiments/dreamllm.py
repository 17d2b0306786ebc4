"""DreamLLM in miniature: do reading and drawing pictures help each other, and what is a dream query worth?

Question  One language model that says what pictures show and dreams them, against one for each: at the same
          examples of each, and at the same compute. Is the frozen decoder better off with what the language
          model dreams than with its own text encoder, for short and for long texts? How many queries does it
          take? What if dreams must be like the text encoder's words? Are pairs drawn that nobody has seen?
Paper     "DreamLLM" (2309.11499): FID 8.50 of creation alone and 8.46 of joint training; 9.56 with 32
          queries, 8.46 with 64, 14.24 with 128; dreams that are to be like a text encoder's words collapse.
Command   python -m experiments.dreamllm --data=runs/dreamllm --workdir=runs/dreamllm/arms
          rows that are there are not made again, and inside a run training goes on from its checkpoints.
          Some arms: --only=joint,creation. Shorter runs, with rows of their own: --steps=0.25.
Data      python -m experiments.dreamllm_data --sources=runs/tasks --output=runs/dreamllm/stamps
          python -m experiments.dreamllm_emoji --sources=runs/tasks --output=runs/dreamllm/emoji
Small     python -m lwm.train --config=experiments/dreamllm.py:quicktest --workdir=/tmp/dreamllm
          --data=runs/dreamllm/stamps --cpu_devices=2
Hardware  two CPU cores, about two hours with a command for other seeds, and another --output, on each.
Expected  the paper: joint training is no worse at drawing and better at reading. Here, three seeds: it reads
          no differently, and draws the right colour less often, 45 % against 77 with the paper's weights and
          70 with even ones; the decoder's own text encoder 89 %; the number of queries hardly matters.
          README.md of this folder.

The arms are those of `dreamllm_arms.py`. All begin with the same parts of their seed, which are frozen but
for the language model. `:size=paper` is I-GPT, the paper's second stage, for `lwm.compile`: its table for
128 chips is experiments/results/dreamllm_pod.txt; nobody has trained it here.
"""

import argparse
import os

import ml_collections

from experiments import arguments, dreamllm_arms, dreamllm_miniature, sweeps

STEPS, PARTS_STEPS = 400, 1000
SEEDS = (0, 1, 2)
KEY = ("arm", "seed", "steps", "name")
COLUMNS = (
    *KEY,
    *("source", "asked", "score", "guidance", "texts", "value", "low", "high", "unit", "n"),
    *("baseline", "baseline_name", "queries", "rows", "compute", "seconds", "commit", "note", "command"),
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of an `arm`, times `steps`; `size=paper`; `quicktest`: two steps of a smaller model."""
    chosen = arguments.parse(argument, arm="joint", steps="1", size="tiny", quicktest=False)
    arm = dreamllm_arms.ARMS.get(chosen.arm)
    if arm is None or chosen.size not in ("tiny", "paper"):
        raise ValueError(f"config argument arm={chosen.arm!r}, size={chosen.size!r}: not known")
    if chosen.size == "paper":
        return _paper()
    config = dreamllm_miniature.get_config("quicktest" if chosen.quicktest else None)
    name, stage = ("join", _joining(arm)) if arm.parts else ("parts", config.stages.parts)
    if not arm.parts:
        stage.images = 8  # names of emoji are shorter than those of stamps, and more of them fit
    stage.steps = 2 if chosen.quicktest else round(float(chosen.steps) * steps_of(arm))
    stage.eval_every, stage.checkpoint_every = 0, 250
    stage.warmup_steps = min(20, stage.steps)
    stage.mirror = arm.data == "stamps"  # names of emoji tell left from right
    config.stages = ml_collections.ConfigDict({name: stage}, sort_keys=False)
    config.experiment, config.model.queries = f"dreamllm_{chosen.arm}", arm.queries
    return config


def steps_of(arm: dreamllm_arms.Arm) -> int:
    """Of a run of an arm."""
    return STEPS if arm.parts else PARTS_STEPS


def _joining(arm: dreamllm_arms.Arm) -> ml_collections.ConfigDict:
    forms = {"questions": "comprehension", "stamps": "creation"}
    stage = dreamllm_miniature.stage(
        steps=STEPS,
        rates=(1e-3, 1e-4),
        mixture={source: float(rows) for source, rows in arm.rows.items()},
        forms={source: forms[source] for source in arm.rows},
        trains=(*dreamllm_miniature.FROZEN_BESIDE, "language"),
        context_length=arm.length,
        batch_tokens=sum(arm.rows.values()) * arm.length,
        images=dreamllm_arms.PICTURES,
        text_weight=float("questions" in arm.rows),
        vision_weight=arm.vision * ("stamps" in arm.rows),
        align_weight=arm.align,
        mesh={"data": -1, "fsdp": 1, "tensor": 1, "seq": 1},
    )
    return ml_collections.ConfigDict(stage)


def _paper() -> ml_collections.ConfigDict:
    """I-GPT: 4M documents and pairs in rows of 2048, 8 of them on each of 128 chips (2309.11499)."""
    config = dreamllm_miniature.get_config()
    stage = dreamllm_miniature.stage(
        steps=3900,
        rates=(2e-5, 0.0),
        mixture={"mmc4": 0.5, "blip_laion": 0.5},
        forms={"blip_laion": "pairs"},
        trains=(*dreamllm_miniature.FROZEN_BESIDE, "language"),
        context_length=2048,
        batch_tokens=1024 * 2048,
        warmup_steps=12,
        images=6,  # as many as a row holds with 324 tokens for each
        mesh={"data": -1, "fsdp": 64, "tensor": 1, "seq": 1},  # 64 divides the 320 channels of the U-Net
    )
    config.experiment, config.model.size = "dreamllm_paper", "paper"
    config.stages = ml_collections.ConfigDict({"igpt": stage}, sort_keys=False)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="runs/dreamllm", help="with the folders stamps and emoji")
    parser.add_argument("--workdir", default="runs/dreamllm/arms")
    parser.add_argument("--output", default=str(sweeps.ROOT / "experiments/results/dreamllm.csv"))
    sweeps.add_only(parser, dreamllm_arms.ARMS)
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--steps", type=float, default=1.0, help="times the steps of a run")
    parser.add_argument("--note", default="miniature")
    chosen = parser.parse_args()
    table = sweeps.Table(chosen.output, COLUMNS, KEY)
    # Programs are compiled once for all seeds.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(f"{chosen.workdir}/compiled"))
    runs = [(name, int(seed)) for seed in chosen.seeds.split(",") for name in chosen.only]
    runs = [run for run in runs if not finished(table, *run, chosen)]
    for number, run in enumerate(runs):
        print(f"{len(runs) - number} runs left", flush=True)
        make(table, *run, chosen)


def finished(table: sweeps.Table, name: str, seed: int, chosen: argparse.Namespace) -> bool:
    """Whether the last of an arm's scores is there."""
    arm = dreamllm_arms.ARMS[name]
    return table.has(arm=name, seed=seed, steps=round(chosen.steps * steps_of(arm)), name=arm.last)


def make(table: sweeps.Table, name: str, seed: int, chosen: argparse.Namespace) -> None:
    """Trains one arm, and before it the parts that it begins with; measures it and adds its rows."""
    arm = dreamllm_arms.ARMS[name]
    workdir, data = folder(name, seed, chosen), os.path.abspath(f"{chosen.data}/{arm.data}")
    parts = folder(arm.parts, seed, chosen)
    there = os.path.exists(f"{parts}/config.json") and finished(table, arm.parts, seed, chosen)
    if arm.parts and not there:
        make(table, arm.parts, seed, chosen)
    words = [f"--config=experiments/dreamllm.py:arm={name},steps={chosen.steps:g}", f"--config.seed={seed}"]
    if arm.parts:
        words.append(f"--config.init={trained_alone(parts)}")
    where = [f"--workdir={workdir}", f"--data={data}"]
    # One device where rows are odd.
    sweeps.run("-m", "lwm.train", *words, *where, f"--cpu_devices={1 if arm.parts else 2}")
    sweeps.run("-m", "lwm.evaluate", *where)
    last = list(sweeps.rows_of(f"{workdir}/metrics.jsonl"))[-1]
    about = {"arm": name, "seed": seed, "steps": round(chosen.steps * steps_of(arm))}
    about |= {"queries": arm.queries, "rows": sum(arm.rows.values()) or "", "note": chosen.note}
    about |= {"compute": dreamllm_arms.compute(arm) or "", "seconds": round(last["seconds"])}
    about |= {"commit": sweeps.commit()}
    about["command"] = f"python -m experiments.dreamllm --only={name} --seeds={seed}"
    if chosen.steps != 1:
        about["command"] += f" --steps={chosen.steps:g}"
    rows = sweeps.rows_of(f"{workdir}/evaluation.jsonl")
    told = ({name: value for name, value in row.items() if value is not None} for row in rows)
    sweeps.gather(table, [row | about for row in told])


def folder(name: str, seed: int, chosen: argparse.Namespace) -> str:
    """The workdir of a run."""
    return os.path.abspath(f"{chosen.workdir}/{name}_{seed}_{chosen.steps:g}")


def trained_alone(workdir: str) -> str:
    """A workdir with the parts that another has trained, and without those that it left at random.

    Arms differ in the shapes of the latter, and each draws its own.
    """
    from etils import epath

    from lwm.training.checkpoints import load_params, stage_folder, write_params
    from lwm.training.workdir import write_json

    own = epath.Path(f"{workdir}_alone")
    if not (own / "config.json").exists():
        config, block, params = load_params(workdir)
        kept = {part: params[part] for part in block["trains"]}
        if (place := stage_folder(own, 0, block["name"])).exists():
            place.rmtree()
        write_params(place, kept, {"config": config, "stage": block})
        write_json(own / "config.json", config)
    return str(own)


if __name__ == "__main__":
    main()
