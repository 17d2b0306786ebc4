"""Batches of questions about clips, for models that look at frames by cross-attention.

The frames of a clip go beside the text. There a dot stands for each, in a line for each eighth of the clip:

    You are a helpful assistant. USER: One frame of this video …
    1 ..
    2 ..           here 16 frames
    …
    8 .. ASSISTANT: 3

`media` says of every token which frame is the last that it may see: that of the dot before it, or its own. A
model that sees frames so far as the text has come can tell where one stands, whatever the encoder of frames
knows about time. Frames shown again after the video have lines "again 1 ." and "again 2 .".

Lane b is row b of the global batch; its clips are drawn from (seed, step, lane) alone, so that a step is all
that there is to remember.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from etils import epath

from lwm.data.clip_frames import Filmed, FilmedClips
from lwm.data.clips import AGAIN, FRAME_BITS, PARTS, TASKS, check_clips, even_places, frames_of_row
from lwm.data.fields import chat_parts
from lwm.data.manifest import load_manifest
from lwm.data.packing import Example, pack_row
from lwm.data.pipeline import check_batch
from lwm.data.tokenizers import Tokenizer, load_tokenizer
from lwm.errors import UserError
from lwm.parallel.layout import zigzag_order

_DOT = "."


class Question(NamedTuple):
    """example: what is packed into a row · media: int32 [t], number of the last frame a token sees."""

    example: Example
    media: np.ndarray


def make_question_batches(
    data_dir: epath.PathLike,
    *,
    split: str,
    mixture: Mapping[str, float],
    frames: int,
    shown: int = 0,
    recolour: bool = False,
    questions: int = 1,
    context_length: int,
    batch_size: int,
    seed: int,
    ring: int = 1,
    stripe: int = 0,
    weighting: str = "example",
    process_index: int = 0,
    process_count: int = 1,
) -> "QuestionBatches":
    """Returns endless batches of questions about clips of the videos of a data folder.

    Beside the arrays of `pipeline.make_batches`, [B, T] with B = batch_size / process_count:

    media: int32 [B, T], the last frame that a position may see, (clip << FRAME_BITS) + its number; number 0 =
      none yet, 0 = padding. Clips and frames are numbered from 1; a clip is a segment.
    frames: uint8 [B, F, R, R, 3], the frames of a row's clips behind each other, then black ones up to a
      multiple of `ring`. Not in the order of the ring.
    frame_ids: int32 [B, F], (clip << FRAME_BITS) + number of each; 0 = no frame.

    Answers and the end of document behind them are learned, questions are not.

    Args:
      split: "train" or "heldout".
      mixture: share of the questions by name, see `clips.TASKS`.
      frames, shown, questions: frames of a clip; so many of them are shown, 0 = all; questions in a row.
      recolour: see `clip_frames.FilmedClips`.
      context_length, batch_size, seed, ring, stripe, weighting, process_index, process_count: as in
        `pipeline.make_batches`.

    Raises:
      UserError: naming the argument, if something does not fit together or is not in `data_dir`.
    """
    load_manifest(data_dir)
    check_clips(mixture, frames, shown, questions)
    check_batch(context_length, batch_size, ring, stripe, weighting, process_count)
    tokenizer = load_tokenizer(data_dir)
    asked = [name for name, weight in mixture.items() if weight]
    slots = max(question(tokenizer, name, frames, shown, "1").example.slots for name in asked)
    if questions * slots > context_length:
        raise UserError(
            f"context_length: {context_length} does not hold {questions} x {slots} tokens of questions about "
            f"{shown or frames} frames; give {questions * slots} or more, or show fewer frames"
        )
    rows = batch_size // process_count
    return QuestionBatches(
        FilmedClips(data_dir, split, mixture=mixture, frames=frames, shown=shown, recolour=recolour),
        lambda clip: question(tokenizer, clip.task, frames, shown, clip.answer),
        lanes=range(process_index * rows, (process_index + 1) * rows),
        seed=seed,
        questions=questions,
        frames=frames_of_row(mixture, frames, shown, questions, ring),
        order=zigzag_order(context_length, ring, stripe),
        weighting=weighting,
    )


class QuestionBatches:
    """An iterator of batches with a JSON-able state; made by `make_question_batches`."""

    def __init__(
        self,
        clips: FilmedClips,
        ask: Callable[[Filmed], Question],
        *,
        lanes: range,
        seed: int,
        questions: int,
        frames: int,
        order: np.ndarray,
        weighting: str,
    ):
        self._clips, self._ask, self._lanes, self._seed = clips, ask, lanes, seed
        self._questions, self._frames, self._order, self._weighting = questions, frames, order, weighting
        self._step = 0

    def __iter__(self) -> "QuestionBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        rows = [self._row(f"{self._seed} {self._step} {lane}") for lane in self._lanes]
        self._step += 1
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def get_state(self) -> dict:
        """Returns {"step"}: it is the same for all hosts."""
        return {"step": self._step}

    def set_state(self, state: dict) -> None:
        self._step = state["step"]

    def _row(self, seed: str) -> dict[str, np.ndarray]:
        clips = [self._clips.draw(f"{seed} {number}") for number in range(self._questions)]
        asked = [self._ask(clip) for clip in clips]
        row = pack_row([one.example for one in asked], len(self._order), self._weighting)
        media = [_ids(clip, one.media[:-1]) for clip, one in enumerate(asked, start=1)]
        row["media"] = _filled(np.concatenate(media), len(self._order))
        row = {name: array[self._order] for name, array in row.items()}
        numbers = [_ids(clip, np.arange(len(one.frames)) + 1) for clip, one in enumerate(clips, start=1)]
        row["frames"] = _filled(np.concatenate([clip.frames for clip in clips]), self._frames)
        row["frame_ids"] = _filled(np.concatenate(numbers), self._frames)
        return row


def question(tokenizer: Tokenizer, task: str, frames: int, shown: int, answer: str) -> Question:
    """The text about a clip of `frames`, of which so many are shown (0: all), in the chat template."""
    parts = chat_parts(TASKS[task], answer, vision=True)
    dot, seen = tokenizer.encode(_DOT), shown or frames
    pieces = [([*tokenizer.prefix, *tokenizer.encode(parts["question"])], 0)]
    pieces += dots_of(tokenizer, frames, shown)
    for place in range(1, AGAIN[task] + 1):
        pieces += [(tokenizer.encode(f"\nagain {place} "), seen), (dot, seen + 1)]
        seen += 1
    learned = [*tokenizer.encode(parts["answer"]), tokenizer.eos]
    pieces += [(tokenizer.encode(parts["assistant"]), seen), (learned, seen)]
    tokens = np.concatenate([ids for ids, _ in pieces]).astype(np.int32)
    example = Example(
        tokens=tokens,
        is_vision=np.zeros(len(tokens), bool),
        loss=np.arange(len(tokens)) >= len(tokens) - len(learned),
    )
    media = np.repeat([number for _, number in pieces], [len(ids) for ids, _ in pieces])
    return Question(example, media.astype(np.int32))


def dots_of(tokenizer: Tokenizer, frames: int, shown: int = 0) -> list[tuple[list[int], int]]:
    """The dots of a clip in their lines: (ids, number of the last frame that they may see), in order."""
    dot, seen, pieces = tokenizer.encode(_DOT), 0, []
    eighths = even_places(frames, shown or frames) * PARTS // frames + 1
    for line, dots in zip(*np.unique(eighths, return_counts=True), strict=True):
        pieces.append((tokenizer.encode(f"{line} " if not seen else f"\n{line} "), seen))
        pieces += [(dot, seen + number) for number in range(1, dots + 1)]
        seen += int(dots)
    return pieces


def _ids(clip: int, numbers: np.ndarray) -> np.ndarray:
    return ((clip << FRAME_BITS) + numbers).astype(np.int32)


def _filled(array: np.ndarray, length: int) -> np.ndarray:
    """With zeros at the end, so that it has `length` entries."""
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))
