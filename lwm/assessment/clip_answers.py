"""What a model that looks at frames beside its text answers to held-out questions about clips.

The questions are those of its stage (`lwm.data.clip_questions`), about clips of held-out frames. Nothing else
is asked of such a model: its text alone is not what it learned.
"""

import jax
import numpy as np
from etils import epath

from lwm.data.clip_questions import make_question_batches
from lwm.data.clips import chance, frames_of_row
from lwm.errors import UserError
from lwm.evaluation.perplexity import Track
from lwm.evaluation.scorer import Scorer
from lwm.serving import sampling

_BATCH_TOKENS = 8192  # of text, or of features of frames: shorter rows are scored together
_SEED = 1_000_000  # of no stage
_MOST = 2**17  # tokens, where all are asked for: questions have no end


def evaluate_answers(
    workdir: epath.PathLike,
    *,
    data: str,
    stage: str | None,
    max_tokens: int,
    track: Track,
    rope_theta: float | None = None,
    haystack: str = "",
    **of_text,
) -> tuple[str, dict[str, float]]:
    """Name of the stage, and values by name: the loss of held-out answers, and the share that is right.

    answer_loss: as training counts it, Σ weights · nll / questions. answers_right: every token of the answer
    and the end behind it is the likeliest after the question and the right tokens before it.
    answers_chance: what a guess without looking gets. answers: how many.

    max_tokens: rows of text hold about so many together. of_text: flags of the verb that are about text.

    Raises:
      UserError: a haystack, no data folder, too few held-out frames, a context that devices cannot cut.
    """
    if haystack:
        raise UserError(f"haystack: {haystack} is for models of text, this one looks at clips; leave it out")
    run = sampling.load(workdir, stage=stage, data=data, rope_theta=rope_theta, serving=False)
    if not run.data:
        raise UserError(f"data: {workdir} names no data folder; give one with videos by --data")
    block, config, T = run.block, run.model.config, run.context_length
    check_rows(jax.device_count(), {"context_length": T})
    asked = {name: block[name] for name in ("mixture", "frames", "shown", "questions")}
    S = frames_of_row(**asked) * config.frame_tokens
    rows = max(1, _BATCH_TOKENS // max(T, S))
    batches = make_question_batches(
        run.data,
        split="heldout",
        context_length=T,
        batch_size=rows,
        seed=_SEED,
        weighting=block["weighting"],
        **asked,
    )
    count = max(1, (max_tokens or _MOST) // (rows * T))
    score, found = Scorer(run.model, run.params, run.mesh), []
    for _ in track(range(count), "held-out questions"):
        batch = next(batches)
        found.append(_answers(*score.greedy(batch), batch))
    loss, right, n = (float(sum(column)) for column in zip(*found, strict=True))
    total = sum(block["mixture"].values())
    guess = sum(weight / total * chance(name) for name, weight in block["mixture"].items() if weight)
    values = {"answer_loss": loss / n, "answers_right": right / n, "answers_chance": guess, "answers": n}
    return block["name"], values


def check_rows(devices: int, lengths: dict[str, int]) -> None:
    """UserError naming the field of a length that a ring of so many devices cannot cut in zigzag order."""
    for field, length in lengths.items():
        if devices > 1 and length % (2 * devices):
            raise UserError(
                f"{field}: {length} cannot be cut into two chunks for each of {devices} devices; "
                "run on one device, or on fewer"
            )


def _answers(nll_BT: np.ndarray, hit_BT: np.ndarray, batch: dict) -> tuple[float, int, int]:
    """(Σ weights · nll, right answers, answers) of a batch."""
    segments_BT, learned_BT = batch["segments"], batch["weights"] > 0
    loss, right = float(np.sum(batch["weights"] * nll_BT, dtype=np.float64)), 0
    for segments_T, wrong_T in zip(segments_BT, learned_BT & ~hit_BT, strict=True):
        right += int(segments_T.max()) - len(set(segments_T[wrong_T].tolist()))
    return loss, right, int(segments_BT.max(axis=1).sum())
