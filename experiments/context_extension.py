"""Context extension in miniature: do stages and a growing theta pay, against the last length at once?

Question  From 256 to 4K tokens of context: stage by stage with theta raised, the same without raising it, all
          at once at 4K for the same FLOPs, or not at all: which model finds needles, and where?
Paper     progressive training on growing context with theta raised per stage (2402.08268, section 3.1).
Command   python -m experiments.context_extension --corpus=runs/needle --workdir=runs/extension
          rows that are there are not made again, and inside a row training goes on from its checkpoints.
          One alone: --only=direct,0
Hardware  two CPU cores.
Expected  staged arms find needles up to 4K, "none" not beyond twice its 256 tokens; "direct" spends the FLOPs
          on rows of 4K, sees far fewer answers and may find none. Whether theta matters at this size is open.
          Our run is in experiments/README.md.

The arms "theta", "staged" and "none" of a seed share their first stage, which is trained once and is all of
"none". Needles and text are scored at every length on documents that no arm has seen.
"""

import pathlib

import ml_collections

from experiments import arguments, needle_miniature, sweeps

LENGTHS = (256, 512, 1024, 2048, 4096)
SHARES = (0.6, 0.3, 0.3, 0.25, 0.2)  # of the steps of experiments/needle_miniature.py, for twelve runs
ARMS, SEEDS = ("none", "theta", "staged", "direct"), (0, 1, 2)
DEPTHS, SAMPLES = (0, 25, 50, 75, 100), 10  # of needles at each length
WINDOWS = 16  # of held-out text
KEY = ("arm", "seed")
COLUMNS = (
    *KEY,
    *(f"{name}_{length}" for length in LENGTHS for name in ("right", "asked", "found", "low", "high")),
    *(f"bits_{start}_{end}" for start, end in zip((0, *LENGTHS), LENGTHS, strict=False)),
    *("parameters", "steps", "tokens", "teraflops", "seconds", "commit", "note", "command"),
)


def get_config(argument: str | None = None) -> ml_collections.ConfigDict:
    """The config of an `arm`; "theta" and "staged" want --config.init=WORKDIR of "none".

    `quicktest`: two steps of each stage.
    """
    chosen = arguments.parse(argument, arm="theta", quicktest=False)
    if chosen.arm not in ARMS:
        raise ValueError(f"config argument arm={chosen.arm!r}: not known; known are {', '.join(ARMS)}")
    config = needle_miniature.get_config()
    config.experiment = f"extension_{chosen.arm}"
    for stage, share in zip(config.stages.values(), SHARES, strict=True):
        stage.steps = round(stage.steps * share)
    first, *longer = list(config.stages.items())
    if chosen.arm == "none":
        stages = dict([first])
    elif chosen.arm == "direct":
        stages = {"context_4096": _direct(config)}
    else:
        stages = dict(longer)
    for stage in stages.values():
        stage.eval_every, stage.checkpoint_every = 0, 100
        if chosen.arm == "staged":
            stage.rope_theta = first[1].rope_theta
        if chosen.quicktest:
            stage.steps, stage.warmup_steps = 2, 1
    config.stages = ml_collections.ConfigDict(stages, sort_keys=False)
    return config


def flops(config: ml_collections.ConfigDict) -> float:
    """Of training through all stages: 6 a token and weight of a product, and attention (2204.02311, B)."""
    model, total = config.model, 0.0
    D, F, L, N, K, H = (model[x] for x in ("width", "ffn", "layers", "heads", "kv_heads", "head_dim"))
    products = L * (2 * D * H * (N + K) + 3 * D * F) + D * model.vocab_size
    for stage in config.stages.values():
        attention = L * N * H * stage.context_length
        total += 6.0 * (products + attention) * stage.batch_tokens * stage.steps
    return total


def _direct(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """One stage at the last length, last theta, first rates, with the sources and the FLOPs of all stages."""
    first, *_, last = config.stages.values()
    shares: dict[str, float] = {}
    for stage in config.stages.values():
        for source, share in stage.mixture.items():
            shares[source] = shares.get(source, 0.0) + share * stage.steps * stage.batch_tokens
    total = sum(shares.values())
    stage = last.copy_and_resolve_references()
    for field in ("learning_rate", "end_learning_rate", "warmup_steps"):
        stage[field] = first[field]
    stage.mixture = ml_collections.ConfigDict({name: round(part / total, 3) for name, part in shares.items()})
    stage.steps, alone = 1, config.copy_and_resolve_references()
    alone.stages = ml_collections.ConfigDict({"context_4096": stage})
    stage.steps = round(flops(config) / flops(alone))
    return stage


def measure(data: str, workdir: str) -> dict:
    """Needles found at each length, and bits a byte of held-out plays by position in rows of the last one."""
    import numpy as np

    from lwm.data import datasets
    from lwm.data.tokenizers import load_tokenizer
    from lwm.evaluation import needle, positions
    from lwm.evaluation.scorer import Scorer
    from lwm.models.sizes import count_parameters
    from lwm.systems import build_model
    from lwm.training.checkpoints import load_params

    config, stage, params = load_params(workdir)
    model, tokenizer = build_model(config["model"], stage), load_tokenizer(data)
    scorer, plays = Scorer(model, params), datasets.documents(data, "text", "heldout")
    texts = [np.asarray(plays[index].tokens) for index in range(len(plays))]
    row = {"parameters": count_parameters(model.config)["total"]}
    for length in LENGTHS:
        cells = needle.grid(
            scorer.greedy,
            tokenizer,
            texts,
            lengths=[length],
            depths=DEPTHS,
            samples=SAMPLES,
            batch_size=max(1, 8192 // length),
        )
        asked, right = (
            sum(cell.samples for cell in cells),
            round(sum(cell.found * cell.samples for cell in cells)),
        )
        low, high = needle.wilson(right, asked)
        found = {"right": right, "asked": asked, "found": right / asked, "low": low, "high": high}
        row |= {f"{name}_{length}": value for name, value in found.items()}
    last = LENGTHS[-1]
    for part in positions.evaluate(
        scorer.nll, tokenizer, texts, lengths=[last], samples=WINDOWS, batch_tokens=8192, first=LENGTHS[0]
    ):
        if (part["start"], part["end"]) != (0, last):
            row[f"bits_{part['start']}_{part['end']}"] = part["bits_per_byte"]
    return row


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Needles found by length, all seeds of an arm together, with Wilson intervals."""
    from lwm.evaluation import figures
    from lwm.evaluation.intervals import wilson

    pooled = []
    for arm in ARMS:
        for length in LENGTHS:
            own = [row for row in rows if row["arm"] == arm]
            right, n = (sum(int(row[f"{name}_{length}"]) for row in own) for name in ("right", "asked"))
            if n:
                low, high = wilson(right, n)
                pooled.append({"arm": arm, "length": length, "share": right / n, "low": low, "high": high})
    title = f"Needles found after four ways to 4K tokens (miniature, {len(rows)} runs)"
    figures.save(figures.curves(pooled, title=title, label=lambda row: row["arm"]), path)


def main() -> None:
    chosen, asked = sweeps.arms_and_seeds(__doc__, "context_extension", "runs/extension", ARMS, SEEDS)
    needle_miniature.prepare(chosen.corpus)
    data = f"{chosen.corpus}/data"
    table = sweeps.Table(chosen.output, COLUMNS, KEY)
    for arm, seed in asked:
        if table.has(arm=arm, seed=seed):
            continue
        begun = f"{chosen.workdir}/none_{seed}"
        steps, tokens, seconds, spent = 0, 0, 0.0, 0.0
        for part in ("none", arm) if arm in ("theta", "staged") else (arm,):
            workdir, config = f"{chosen.workdir}/{part}_{seed}", get_config(f"arm={part}")
            words = [f"--config=experiments/context_extension.py:arm={part}", f"--config.seed={seed}"]
            words += [f"--config.init={begun}"] if part in ("theta", "staged") else []
            sweeps.run("-m", "lwm.train", *words, f"--workdir={workdir}", f"--data={data}", "--cpu_devices=2")
            last = list(sweeps.rows_of(f"{workdir}/metrics.jsonl"))[-1]
            steps += sum(stage.steps for stage in config.stages.values())
            tokens, seconds, spent = tokens + last["tokens"], seconds + last["seconds"], spent + flops(config)
        command = f"python -m experiments.context_extension --only={arm},{seed}"
        about = {"arm": arm, "seed": seed, "steps": steps, "tokens": tokens, "seconds": round(seconds)}
        about |= {
            "teraflops": spent / 1e12,
            "commit": sweeps.commit(),
            "note": "miniature",
            "command": command,
        }
        table.add(about | measure(data, workdir))
    draw(table.rows, table.path.with_suffix(".png"))


if __name__ == "__main__":
    main()
