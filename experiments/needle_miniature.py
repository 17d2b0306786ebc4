"""A miniature that finds the needle: five stages of context, 256 to 4K tokens, on two CPU cores.

Question  Does a model that learns to retrieve at 256 tokens, and is then taken to longer contexts stage by
          stage, find a needle everywhere up to its last trained length, and where does it fail before?
Paper     the text stages and the needle of 2402.08268 (section 3, table 11, figure of the 1M needle), shrunk.
Command   python -m experiments.needle_miniature --workdir=runs/needle
          lays out the corpus, prepares, trains and evaluates, each step with a verb of lwm, and gathers the
          rows in experiments/results/needle_miniature.csv. What is done is not done again. Training alone:
          python -m lwm.train --config=experiments/needle_miniature.py --workdir=runs/needle/lwm \\
              --data=runs/needle/data --cpu_devices=2
Hardware  two CPU cores.
Expected  95 % of the needles or more at every length and depth up to 4K; the model of the first stage finds a
          fifth of them or fewer beyond 512. Our run is in experiments/README.md.

What makes a model of 0.2M parameters learn this in minutes (seen in miniature, one seed each): a narrow
model, so that there are many steps (64 wide and 2 layers learned twice as fast by the clock as 128 wide);
short documents that hold hardly anything but what is asked for ("drill" of needle_corpus.py); and digits in
pairs, so that what follows a token of a number is hardly ever ambiguous. With neither, 128 wide, the loss of
answers had not left its first plateau after 4M tokens. Retrieval comes between 3M and 7M tokens of the first
stage; each longer stage then needs few steps.
"""

import argparse
import pathlib
import shutil

import ml_collections

from experiments import arguments, sweeps

VOCAB_SIZE = 1024  # of experiments/needle_corpus.py
WORKDIR = "runs/needle"
LENGTHS = (256, 512, 1024, 2048, 4096)
DEPTHS = tuple(range(0, 101, 10))
KEY = ("task", "kind", "stage", "length", "depth", "needles", "asked", "start", "end")
COLUMNS = (
    *KEY,
    *("trained_length", "rope_theta", "n", "share", "low", "high", "prompt_low", "prompt_high"),
    *("nats", "bits_per_byte", "seconds", "seed", "commit", "note", "command"),
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of the stages; `quicktest` leaves two steps of each."""
    chosen = arguments.parse(argument, quicktest=False)
    config = ml_collections.ConfigDict(
        {
            "experiment": "needle_miniature",
            "seed": 0,
            "model": {
                "name": "lwm",
                "size": "tiny",
                "vocab_size": VOCAB_SIZE,
                "layers": 2,
                "width": 64,
                "ffn": 128,
                "heads": 4,
                "kv_heads": 4,
                "head_dim": 16,
                "init_std": 0.08,
                "dtype": "float32",
                "remat": "none",
                "attention_block": 256,
            },
            "data": {"path": "runs/needle/data"},
            "init": "",
            "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0},
            "log_every": 100,
            "checkpoint": {"keep": 1},
        },
        sort_keys=False,
    )
    config.stages = ml_collections.ConfigDict(
        {
            "context_256": stage(
                256, 1e4, 9000, {"drill": 0.6, "needle_256": 0.3}, rates=(3e-3, 5e-4), rows=8, warmup=50
            ),
            "context_512": stage(
                512, 2e4, 1200, {"drill": 0.1, "needle_256": 0.2, "needle_512": 0.6}, rows=8
            ),
            "context_1k": stage(
                1024, 4e4, 1000, {"needle_256": 0.1, "needle_512": 0.1, "needle_1024": 0.7}, rows=4
            ),
            "context_2k": stage(
                2048,
                8e4,
                900,
                {"needle_256": 0.05, "needle_512": 0.05, "needle_1024": 0.1, "needle_2048": 0.7},
                rows=2,
            ),
            "context_4k": stage(
                4096,
                1.6e5,
                900,
                {
                    "needle_256": 0.04,
                    "needle_512": 0.04,
                    "needle_1024": 0.06,
                    "needle_2048": 0.1,
                    "needle_4096": 0.66,
                },
                rows=2,
            ),
        },
        sort_keys=False,
    )
    if chosen.quicktest:
        for one in config.stages.values():
            one.steps, one.warmup_steps, one.eval_every = 2, 1, 0
    return config


def stage(
    context_length: int,
    theta: float,
    steps: int,
    mixture: dict[str, float],
    *,
    rows: int,
    rates: tuple[float, float] = (1e-3, 2e-4),
    warmup: int = 20,
) -> dict:
    """A stage; the tenth of its rows that `mixture` leaves is plays.

    Shares are of rows, and each document weighs the same: a row of short ones outweighs a row of a long one.
    """
    return {
        "context_length": context_length,
        "rope_theta": theta,
        "batch_tokens": rows * context_length,
        "steps": steps,
        "learning_rate": rates[0],
        "end_learning_rate": rates[1],
        "warmup_steps": warmup,
        "schedule": "linear",
        "mesh": {"data": 2, "fsdp": 1, "tensor": 1, "seq": 1},
        "mixture": mixture | {"text": 0.1},
        "text_weight": 1.0,
        "vision_weight": 0.0,
        "eval_every": max(steps // 5, 1),
        "eval_batches": 4,
        "checkpoint_every": max(steps // 10, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workdir", default=WORKDIR)
    parser.add_argument("--output", default=str(sweeps.ROOT / "experiments/results/needle_miniature.csv"))
    chosen = parser.parse_args()
    work, output = chosen.workdir, pathlib.Path(chosen.output)
    prepare(work)
    config = "--config=experiments/needle_miniature.py"
    sweeps.run("-m", "lwm.train", config, f"--workdir={work}/lwm", f"--data={work}/data", "--cpu_devices=2")
    table = sweeps.Table(output, COLUMNS, KEY)
    first, *_, last = stages = list(get_config().stages)
    grid = ["--suite=needle", _list("lengths", LENGTHS), _list("depths", DEPTHS), "--samples=10"]
    for name in stages:
        gather(table, work, name, *grid)
    several = ["--needles=1/1,2/1,2/2,4/1,4/2,4/4", _list("lengths", LENGTHS[1:]), "--samples=50"]
    gather(table, work, last, "--suite=multi_needle", *several)
    gather(table, work, last, "--suite=ruler", _list("lengths", LENGTHS[2:]), "--samples=20")
    for name in (first, last):
        gather(table, work, name, "--suite=positions", _list("lengths", LENGTHS[-1:]), "--samples=32")
    for stage, kind in ((first, "needle"), (last, "needle"), (last, "multi_needle"), (last, "ruler")):
        picture = f"{work}/evaluation/{stage}/{kind}.png"
        shutil.copyfile(picture, output.with_name(f"needle_miniature_{kind}_{stage}.png"))


def prepare(work: str) -> None:
    """The data folder of this experiment, and of those that share it."""
    if (pathlib.Path(work) / "data" / "data.json").exists():
        return
    sweeps.run("-m", "experiments.needle_corpus", f"{work}/input")
    tokenizer = f"--tokenizer={work}/input/tokenizer.model"
    sweeps.run("-m", "lwm.prepare", f"--input={work}/input", f"--output={work}/data", tokenizer)


def gather(table: sweeps.Table, work: str, stage: str, suite: str, *flags: str) -> None:
    """Evaluates a stage and adds the rows that are new."""
    words = ["-m", "lwm.evaluate", f"--workdir={work}/lwm", f"--stage={stage}", suite, *flags]
    folder = f"{work}/evaluation/{stage}"
    sweeps.run(*words, f"--output={folder}")
    about = {"seed": 0, "commit": sweeps.commit(), "command": " ".join(["python", *words])}
    about["command"] = about["command"].replace(work, WORKDIR)  # whose folders they were says nothing
    found = sweeps.rows_of(f"{folder}/{suite.removeprefix('--suite=')}.jsonl")
    noted = (row | {"note": ", ".join(filter(None, ["miniature", row["note"]]))} for row in found)
    sweeps.gather(table, (row | about for row in noted))


def _list(flag: str, values: tuple[int, ...]) -> str:
    return f"--{flag}={','.join(map(str, values))}"


if __name__ == "__main__":
    main()
