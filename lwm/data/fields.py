"""The field syntax: which parts of a document follow each other, and which are learned.

    "[vision+question],answer"     groups are joined in order, by commas; "+" joins parts inside a group;
                                   brackets = no loss. A part is a key of the JSON line; `vision` is its video
                                   or image.

Around the whole stand begin-of-document (never a target) and end-of-document (learned). The tokens `<vision>`
and `</vision>` around a vision part belong to it: they are learned where it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

VISION = "vision"
CAPTION_FIELDS = ("[caption],vision", "[vision],caption")
CHAT_FIELDS = ("[question+assistant],answer",)
VISION_CHAT_FIELDS = ("[question+vision+assistant],answer",)


class Group(NamedTuple):
    """Parts between two commas."""

    parts: tuple[str, ...]
    loss: bool


def parse_fields(fields: str) -> tuple[Group, ...]:
    """Returns the groups of `fields`; ValueError, in words for the user, if it does not follow the syntax."""
    groups = []
    for text in fields.split(","):
        text = text.strip()
        loss = not text.startswith("[")
        inner = text if loss else text.removeprefix("[").removesuffix("]")
        parts = tuple(part.strip() for part in inner.split("+"))
        if text.startswith("[") != text.endswith("]") or any(not part.isidentifier() for part in parts):
            raise ValueError(f"fields {fields!r} is not of the form '[part+part],part'")
        groups.append(Group(parts, loss))
    names = [part for group in groups for part in group.parts]
    if len(set(names)) < len(names):
        raise ValueError(f"fields {fields!r} names a part twice")
    if not any(group.loss for group in groups):
        raise ValueError(f"fields {fields!r} leaves nothing to learn: every part is in brackets")
    return tuple(groups)


def parts_of(fields: Sequence[str]) -> list[str]:
    """Returns the names of all parts in `fields`, in order of first appearance."""
    return list(dict.fromkeys(part for one in fields for group in parse_fields(one) for part in group.parts))


def drop_condition(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Returns `groups` without the unlearned text ahead of the first learned vision part.

    What is left is the unconditional prompt of classifier-free guidance: begin-of-document, `<vision>`
    (PAPERS: LWM `vision_generation.py`). Without a learned vision part the groups come back as they are.
    """
    for at, group in enumerate(groups):
        if group.loss and VISION in group.parts:
            kept = (g for g in groups[:at] if g.loss or VISION in g.parts)
            return (*kept, *groups[at:])
    return tuple(groups)


def chat_parts(question: str, answer: str, *, vision: bool) -> dict[str, str]:
    """Returns the text parts of one exchange in LWM's prompt template (`vision_chat.py`).

    "You are a helpful assistant. USER: {question}\\n<vision>…</vision> ASSISTANT: {answer}", without the
    newline and the vision part if there is none. A prompt for generation is bos + question + vision +
    assistant.
    """
    return {
        "question": f"You are a helpful assistant. USER: {question}" + ("\n" if vision else ""),
        "assistant": " ASSISTANT:",
        "answer": f" {answer}",
    }
