"""What a stage of a DreamLLM is worth on held-out documents: what it says, what it draws, where it would.

<source>_<question>_accuracy …    comprehension, see `page_answers`; the question in small letters
<source>_placement_f1             where dreams are opened in documents of the form "joint"
judge_<question>_conditional_accuracy
                                  of real held-out pictures: the judge of drawings, see `page_drawings`
<source>_<question>_conditional_accuracy_<guidance>, <source>_fd_cls_<guidance>
                                  creation, for the texts that a picture stands behind; "encoder_…" where
                                  the decoder's own text encoder is what a stage has trained. With "short"
                                  and "long": of the shorter and the longer half of the texts, by rank; of
                                  equal lengths those that come first count as shorter
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from lwm.assessment import page_answers, page_drawings
from lwm.assessment.page_documents import Wish, pictures_of, spread, wishes_of
from lwm.data.interleaved_records import pages
from lwm.errors import UserError
from lwm.evaluation.perplexity import Track
from lwm.evaluation.task_scores import Score
from lwm.serving import pages as page_runs
from lwm.serving.sampling import Run

_UNITS = {"nats": "nats/token", "chrf": "of 100", "fd_cls": "squared distance"}


def evaluate_pages(
    workdir: epath.PathLike,
    *,
    data: str = "",
    stage: str | None = None,
    samples: int = 0,
    seed: int = 0,
    track: Track,
) -> list[dict]:
    """A row for each score of a stage, as of `task_answers.evaluate_tasks`, with "source", "asked", "score",
    "guidance" and "texts" beside.

    Args:
        samples: documents of a source, at most; 0 = all that are held out.
        seed: of what is drawn; the judge has its own.

    Raises:
        UserError: no checkpoint of a DreamLLM of pixels, or no data folder with held-out documents.
    """
    run = page_runs.load(workdir, stage=stage, data=data)
    if not run.manifest.get("pages"):
        raise UserError(
            f"data: {run.data or workdir} has no documents with pictures; give a folder by --data"
        )
    found = list(_of_words(run, samples, track)) + list(_of_drawings(run, samples, seed, track))
    if not found:
        raise UserError(f"data: {run.data} holds out no document of {list(run.block['mixture'])}; hold some")
    return [row | {"stage": run.block["name"]} for row in found]


def _of_words(run: Run, samples: int, track: Track) -> Iterator[dict]:
    reader = page_answers.Reader(run.model, run.params, run.tokenizer, run.context_length)
    if not run.model.config.text_weight:
        return
    for source in track(_sources(run), "what is said"):
        form = run.block["forms"].get(source, "joint")
        records = {split: pages(run.data, source, split) for split in ("train", "heldout")}
        if form == "joint":
            for asked, *rest in page_answers.document_scores(reader, records["heldout"], samples):
                yield _row(source, asked, *rest)
        where = (reader, run.model, run.params, run.tokenizer)
        for asked, *rest in page_answers.question_scores(*where, records, form, samples):
            yield _row(source, asked or "caption", *rest)


def _of_drawings(run: Run, samples: int, seed: int, track: Track) -> Iterator[dict]:
    config = run.model.config
    by_encoder = config.decoder_weight > 0
    wishes = {}
    for source in _sources(run) if by_encoder or config.vision_weight else ():
        if by_encoder or run.block["forms"].get(source, "joint") != "comprehension":
            records = pages(run.data, source, "heldout")
            own = list(wishes_of(records))
            # Not of sources in which a document happens to have one picture only.
            wishes |= {source: spread(own, samples)} if 2 * len(own) > len(records) else {}
    known = run.manifest["pages"]
    court = page_drawings.open_court(run.data, known, run.tokenizer) if wishes else None
    if court is None:
        return
    for asked, *rest in page_drawings.real_scores(court, pictures_of(run.data, known, "heldout")):
        yield _row("judge", asked, *rest)
    how = {"bos": run.tokenizer.bos, "seed": seed, "by_text_encoder": by_encoder}
    for source, own in wishes.items():
        real = np.stack([wish.picture for wish in own])
        for guidance in track(page_drawings.GUIDANCES, "what is drawn"):
            pictures = page_drawings.drawn(run.model, run.params, own, guidance=guidance, **how)
            for texts, chosen in by_length(own).items():
                if not len(chosen):
                    continue
                for asked, *rest in page_drawings.drawing_scores(court, pictures[chosen], real[chosen]):
                    name = f"encoder_{source}" if by_encoder else source
                    yield _row(name, asked, *rest, guidance=guidance, texts=texts)


def by_length(wishes: Sequence[Wish]) -> dict[str, np.ndarray]:
    """{"": numbers of all wishes, "short": of the half with the shorter texts, "long": of the other half}."""
    order_N = np.argsort([len(wish.text) for wish in wishes], kind="stable")
    middle = len(wishes) // 2
    return {"": order_N, "short": order_N[:middle], "long": order_N[middle:]}


def _sources(run: Run) -> list[str]:
    """Those of the mixture with held-out documents."""
    used = [source for source, weight in run.block["mixture"].items() if weight]
    return [source for source in used if "heldout" in run.manifest["pages"].get(source, {})]


def _row(
    source: str,
    asked: str,
    score: Score,
    baseline: float | None,
    baseline_name: str | None,
    n: int,
    guidance: float | None = None,
    texts: str = "",
) -> dict:
    about = re.sub(r"[^a-z0-9]+", "_", asked.lower()).strip("_")
    words = [source, texts, about, score.name, "" if guidance is None else f"{guidance:g}"]
    row = {"name": "_".join(filter(None, words)), "source": source, "asked": about, "score": score.name}
    row |= {"guidance": guidance, "texts": texts, "value": score.value, "low": score.low, "high": score.high}
    unit = _UNITS.get(score.name, "share")
    return row | {"unit": unit, "baseline": baseline, "baseline_name": baseline_name, "n": n}
