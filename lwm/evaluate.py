"""python -m lwm.evaluate: held-out numbers and long-context suites of a trained or imported model.

    python -m lwm.evaluate --workdir=runs/lwm       text, video codes and a needle grid of a transformer
    python -m lwm.evaluate --workdir=runs/vqgan     rebuilt frames of a VQGAN
    python -m lwm.evaluate --workdir=runs/clips     held-out questions to a model that looks at clips
    python -m lwm.evaluate --workdir=runs/tasks     held-out samples of each task of a MultiModel
    python -m lwm.evaluate --workdir=runs/dreamllm  held-out documents of text and pictures of a DreamLLM
    python -m lwm.evaluate --workdir=runs/smollm2 --suite=needle,ruler,positions --haystack=book.txt

The suite `heldout` writes WORKDIR/evaluation.jsonl (earlier rows of the stage are replaced) and
WORKDIR/needle.json, or a picture of rebuilt frames in WORKDIR/samples/. The others write JSON lines and a
figure each to OUTPUT, cell by cell: the same command goes on where it was stopped. With more than one device
all of them form one ring.
"""

import sys

from absl import flags

from lwm.errors import UserError
from lwm.launcher import launch, start_devices

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of lwm.train or lwm.convert.", required=True)
DATA = flags.DEFINE_string("data", "", "Data folder (that of the training run if empty).")
STAGE = flags.DEFINE_string("stage", None, "Name of the stage (the last one with a checkpoint if not given).")
SUITE = flags.DEFINE_list(
    "suite", ["heldout"], "Of heldout, needle, multi_needle, ruler, positions, video_qa."
)
HAYSTACK = flags.DEFINE_string(
    "haystack", "", "Text file to read and to hide needles in (the held-out text)."
)
OUTPUT = flags.DEFINE_string("output", "", "Folder of the suites' rows and figures (WORKDIR/evaluation).")
MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 2**17, "heldout: tokens of each kind; 0 = all.", lower_bound=0
)
LENGTHS = flags.DEFINE_list("lengths", [], "In tokens, up to all of the context if not given.")
DEPTHS = flags.DEFINE_list("depths", ["0", "50", "100"], "needle: percent of the context before it.")
SAMPLES = flags.DEFINE_integer(
    "samples",
    None,
    "Prompts or windows a cell (5; heldout: 2, 0 = no grid), of a task (256), of a source of pages (all).",
    lower_bound=0,
)
BEAMS = flags.DEFINE_integer("beams", 1, "Of a MultiModel's texts; 1 = greedy.", lower_bound=1)
NEEDLES = flags.DEFINE_list("needles", ["2/2", "4/1", "4/2", "4/4"], "multi_needle: placed/asked.")
TASKS = flags.DEFINE_list("tasks", [], "ruler, video_qa, a MultiModel: names of tasks (all of them).")
FRAMES = flags.DEFINE_list("frames", ["16", "64"], "video_qa: frames of the clips.")
ANSWER = flags.DEFINE_string(
    "answer", "", "forced (exact next tokens) or generated (any text with the answer)."
)
TEMPLATE = flags.DEFINE_string("template", "", "plain or chat (chat if the tokenizer has its marks).")
ROPE_THETA = flags.DEFINE_float("rope_theta", None, "RoPE theta in place of the stage's.", lower_bound=1.0)
SEED = flags.DEFINE_integer("seed", 0, "Of the suites' questions.")


def main():
    lengths, depths, frames = (numbers(flag) for flag in (LENGTHS, DEPTHS, FRAMES))
    pairs = [tuple(map(int, pair.split("/"))) for pair in NEEDLES.value if _is_pair(pair)]
    if wrong := [pair for pair in NEEDLES.value if not _is_pair(pair)]:
        raise UserError(f"needles: {wrong[0]!r} is not of the form placed/asked; write --needles=4/1,4/2")
    start_devices()
    from lwm.assessment import held_out, subject, suites

    suites.check(SUITE.value)
    asked = {"lengths": lengths, "depths": depths, "haystack": HAYSTACK.value}
    where = {"data": DATA.value, "stage": STAGE.value, "rope_theta": ROPE_THETA.value}
    if "heldout" in SUITE.value:
        asked_here = asked | {"samples": SAMPLES.value, "tasks": TASKS.value, "beams": BEAMS.value}
        held_out.run(WORKDIR.value, **where, **asked_here, max_tokens=MAX_TOKENS.value, track=track)
    if rest := [name for name in SUITE.value if name != "heldout"]:
        wishes = suites.Wishes(**asked, samples=5 if SAMPLES.value is None else SAMPLES.value, pairs=pairs)
        wishes = wishes._replace(tasks=TASKS.value, frames=frames, answer=ANSWER.value, seed=SEED.value)
        loaded = subject.load(WORKDIR.value, **where, template=TEMPLATE.value)
        for name in rest:
            suites.run(name, loaded, wishes, OUTPUT.value or f"{WORKDIR.value}/evaluation")


def numbers(flag) -> list[int]:
    """The whole numbers of a list flag."""
    if wrong := [text for text in flag.value if not text.strip().isdigit()]:
        raise UserError(
            f"{flag.name}: {wrong[0]!r} is not a whole number; write for example --{flag.name}=0,50"
        )
    return [int(text) for text in flag.value]


def _is_pair(text: str) -> bool:
    return text.count("/") == 1 and all(part.strip().isdigit() for part in text.split("/"))


def track(items, title):
    """Passes the items on and says how far they are: a bar on a terminal, lines in a log."""
    from rich.console import Console
    from rich.progress import track as bar

    from lwm.data.progress import lines

    if sys.stderr.isatty():
        return bar(items, title, console=Console(stderr=True))
    return lines(items, title, len(items), "batches")


if __name__ == "__main__":
    launch(main)
