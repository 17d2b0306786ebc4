"""Questions about long clips: which part is odd, how often, what came first; all frames against eight.

In miniature what long-video understanding of LWM (2402.08268) and LV-XAttn is about: the clips and questions
of data/clips.py, asked with every frame of a clip and with eight at even distances, as short-context models
are shown them. Each row stands beside `chance` and `ideal`, the best that anyone could do from the frames
shown.

Frames are codes of a VQGAN, P each. A prompt is LWM's: question, <vision>, frames, </vision>, " ASSISTANT:".
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lwm.data.clips import PARTS, SCENES, TASKS, chance, compose, even_places, ideal
from lwm.errors import UserError
from lwm.evaluation.cells import Answer, Asked, Cell, Skip, Track, run


class Layout(NamedTuple):
    """How text and frames are written: `<vision>` and `</vision>` as text ids, the ids of eof and eov."""

    vision_start: Sequence[int]
    vision_end: Sequence[int]
    eof: int
    eov: int


class Clip(NamedTuple):
    """frames: int32 [N, P] in order; again: frames shown after the video, [R, P]; answer: a digit."""

    frames: np.ndarray
    again: np.ndarray
    answer: str


def evaluate(
    answer: Answer,
    tokenizer,
    scenes: Sequence[np.ndarray],
    layout: Layout,
    *,
    frames: Sequence[int],
    samples: int,
    tasks: Sequence[str] = tuple(TASKS),
    seed: int = 0,
    new_tokens: int = 8,
    multiple: int = 128,
    skip: Skip = lambda about: False,
    track: Track = lambda cells, title: cells,
) -> Iterator[dict[str, Any]]:
    """Rows {"task": "video_qa", "kind", "frames" (N), "shown" (N or 8), "length", "seed", "chance", "ideal"}.

    scenes: codes int32 [frames, P] of each scene. frames: lengths of the clips. length: tokens of the prompt
    and `new_tokens`, rounded up to a `multiple`. samples: clips in each cell, the same for both contexts.

    Raises:
        UserError: an unknown task, too few scenes, or clips that eight frames cannot divide.
    """
    if unknown := [name for name in tasks if name not in TASKS]:
        raise UserError(f"tasks: {unknown[0]!r} is not known; choose from {', '.join(TASKS)}")
    if wrong := [count for count in frames if count % PARTS or count <= PARTS]:
        raise UserError(f"frames: {wrong[0]} is not a multiple of {PARTS} above it; give for example 64")
    if len(scenes) < SCENES:
        raise UserError(
            f"data: video_qa needs {SCENES} clips and there are {len(scenes)}; prepare more videos"
        )
    cells = []
    for count in frames:
        for name in tasks:
            make = functools.partial(clip, name, scenes, count)
            for shown in (count, PARTS):
                write = functools.partial(prompt, name, tokenizer, layout, shown=shown, new_tokens=new_tokens)
                used = len(write(make(seed)).tokens) + new_tokens
                about = {"task": "video_qa", "kind": name, "frames": count, "shown": shown}
                about |= {"length": -(-used // multiple) * multiple, "seed": seed, "samples": samples}
                about |= {"chance": chance(name), "ideal": ideal(name, count, shown)}
                seeds = range(seed, seed + samples)
                cells.append(Cell(about, functools.partial(_asked, make, write, seeds)))
    yield from run(cells, answer, skip=skip, track=track)


def clip(name: str, scenes: Sequence[np.ndarray], count: int, seed: int) -> Clip:
    """A clip of `count` frames, see `data.clips.compose`, in codes."""
    made = compose(name, [len(scene) for scene in scenes], count, seed)

    def codes(picked: np.ndarray) -> np.ndarray:
        found = [scenes[scene][place] for scene, place in picked]
        return np.array(found, scenes[0].dtype).reshape(-1, scenes[0].shape[1])

    return Clip(codes(made.frames), codes(made.again), made.answer)


def prompt(name: str, tokenizer, layout: Layout, made: Clip, *, shown: int, new_tokens: int) -> Asked:
    """The prompt with all frames, or with `shown` of them at even distances."""
    frames = made.frames[even_places(len(made.frames), shown)]
    head = [*tokenizer.prefix, *tokenizer.encode(f"You are a helpful assistant. USER: {TASKS[name]}\n")]
    parts = [(head, False)]
    for video in (frames, *made.again[:, None]):
        codes = np.concatenate([video, np.full((len(video), 1), layout.eof)], axis=1).reshape(-1)
        codes[-1] = layout.eov
        parts += [(layout.vision_start, False), (codes, True), (layout.vision_end, False)]
    parts.append((tokenizer.encode(" ASSISTANT:"), False))
    tokens = np.concatenate([np.asarray(ids, np.int32) for ids, _ in parts])
    is_vision = np.concatenate([np.full(len(ids), vision) for ids, vision in parts])
    return Asked(tokens, is_vision, (f" {made.answer}",), new_tokens)


def _asked(make, write, seeds) -> list[Asked]:
    return [write(make(seed)) for seed in seeds]
