"""A workdir as what the evaluations ask: functions that score and write, a tokenizer, a template.

It stands beside the verbs because it knows both sides: workdirs and data folders, and the evaluations that
take plain functions and arrays. An imported model brings its tokenizer along and has no data folder; a
trained one has that of its data.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from etils import epath

from lwm.data.tokenizers import Tokenizer
from lwm.errors import UserError
from lwm.evaluation.cells import Asked, outcome_of
from lwm.evaluation.haystack import Question, Wrap
from lwm.evaluation.needle import TEMPLATE
from lwm.evaluation.scorer import Scorer
from lwm.generation import templates
from lwm.generation.cache import Prompt
from lwm.generation.loop import generate as write
from lwm.generation.modality import Grammar
from lwm.generation.sampler import Sampling
from lwm.serving import sampling
from lwm.training.checkpoints import stage_folder
from lwm.training.recovery import whole_step

TEMPLATES = ("plain", "chat")
_BURST = 8  # tokens between two looks at what was written
_UNIT = 64  # caches have a multiple of it


class Subject(NamedTuple):
    """step: of the checkpoint; block: the stage as it was run; data: path of the data folder, "" = none."""

    name: str
    step: int
    block: dict[str, Any]
    rope_theta: float
    parameters: int
    data: str
    tokenizer: Tokenizer
    score: Scorer
    generate: Callable[[Sequence[Asked], int], list[str]]
    template: str
    wrap: Wrap


def load(
    workdir: epath.PathLike,
    *,
    stage: str | None = None,
    data: str = "",
    rope_theta: float | None = None,
    template: str = "",
) -> Subject:
    """The newest checkpoint of a stage (None: the last one) over all devices, which form one ring.

    rope_theta: in place of the stage's; a larger one stretches the context of a model as it is. template: of
    TEMPLATES; "" = chat where the tokenizer has the marks of one.

    Raises:
      UserError: there is no checkpoint of a transformer that reads all as tokens, no tokenizer or another's,
        or no such template.
    """
    run = sampling.load(workdir, stage=stage, data=data, rope_theta=rope_theta)
    if run.looks:
        raise UserError(
            f"suite: {workdir} holds a model that looks at frames beside its text, of which only heldout is "
            "asked; use --suite=heldout"
        )
    model, params, tokenizer, block = run.model, run.params, run.tokenizer, run.block
    chats = "<|im_start|>" in tokenizer.specials
    template = template or ("chat" if chats else "plain")
    if template not in TEMPLATES:
        raise UserError(f"template: {template!r} is not known; choose from {', '.join(TEMPLATES)}")
    if template == "chat" and not chats:
        raise UserError("template: chat, but the tokenizer has no marks of ChatML; use --template=plain")
    stop = templates.template_of(tokenizer).stop if template == "chat" else (tokenizer.eos,)
    index = list(run.config["stages"]).index(block["name"])
    return Subject(
        name=epath.Path(workdir).name,
        step=whole_step(stage_folder(workdir, index, block["name"])),
        block=block,
        rope_theta=float(model.config.rope_theta),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        data=run.data,
        tokenizer=tokenizer,
        score=Scorer(model, params, run.mesh),
        generate=_generator(run, stop),
        template=template,
        wrap=chat(tokenizer) if template == "chat" else plain(tokenizer),
    )


def plain(tokenizer: Tokenizer) -> Wrap:
    """LWM's template of the needle (2402.08268): text, question, "ASSISTANT: "."""

    def wrap(asked: Question) -> list[int]:
        text = TEMPLATE.format(context=asked.context, question=asked.question)
        return [*tokenizer.prefix, *tokenizer.encode(text + asked.lead)]

    return wrap


def chat(tokenizer: Tokenizer) -> Wrap:
    """The first turn in the template of the tokenizer, the lead as the beginning of the answer."""
    template = templates.template_of(tokenizer)

    def wrap(asked: Question) -> list[int]:
        parts = template.first(asked.question, document=asked.context)
        return templates.encode(tokenizer, [*parts, asked.lead]).tokens.tolist()

    return wrap


def _generator(run: sampling.Run, stop: Sequence[int]) -> Callable[[Sequence[Asked], int], list[str]]:
    """Greedy continuations as text, of at most so many new tokens, or up to one in `stop`.

    They also end when all answers are written: what would follow cannot take them away.
    """
    tokenizer, grammar = run.tokenizer, Grammar(text=run.tokenizer.vocab_size, stop=tuple(stop))

    def generate(asked: Sequence[Asked], new_tokens: int) -> list[str]:
        longest = max(len(prompt.tokens) for prompt in asked)
        # Prompts of one length differ by some tokens; with room up to a common size they share a program.
        room = -(-(longest + new_tokens) // _UNIT) * _UNIT - longest
        how = {"new_tokens": room, "grammar": grammar, "seed": 0, "text": Sampling(temperature=0.0)}
        prompts, rows = [Prompt(prompt.tokens, prompt.is_vision) for prompt in asked], [[] for _ in asked]
        texts = [""] * len(asked)
        with sampling.devices(run):
            said = write(run.model, run.params, prompts, **how, steps=_BURST)
            for tokens_BT, _ in itertools.islice(said, -(-new_tokens // _BURST)):
                for row, tokens_T in zip(rows, tokens_BT, strict=True):
                    row += [int(token) for token in tokens_T if token >= 0 and token not in stop]
                texts = [tokenizer.decode(row[:new_tokens]) for row in rows]
                if all(
                    all(outcome_of(text, prompt).found) for text, prompt in zip(texts, asked, strict=True)
                ):
                    break
        return texts

    return generate
