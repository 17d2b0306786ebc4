"""A grid of runs to test laws with: what to train, at what cost, in which order. Nothing is trained here.

Sizes grow by the square root of ten and tokens by two. Every modality is trained alone on all sizes and
tokens with the first of its tokenizers; a few sizes see the others, two modalities or three together, and
other seeds, which tell how much is chance.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lwm.errors import UserError
from lwm.models.sizes import TransformerConfig
from lwm.scaling.flops import training_flops

SMALLEST, LARGEST = 10_000, 1_000_000  # parameters, tables left out
FEWEST, MOST = 2**16, 2**21  # tokens of a modality
CONTEXT = 128


class Part(NamedTuple):
    """Tokens of one modality in a run."""

    modality: str
    tokenizer: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of the grid, known by all of its fields.

    size: parameters asked for; `shape` makes the nearest model. parts: modalities in the grid's order.
    """

    size: int
    parts: tuple[Part, ...]
    seed: int = 0

    @property
    def name(self) -> str:
        """Such as "100000-text.bpe512.65536-audio.mulaw256.65536-0"."""
        return "-".join([str(self.size), *(".".join(map(str, part)) for part in self.parts), str(self.seed)])

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)


Vocabularies = Mapping[str, Mapping[str, int]]  # modality -> tokenizer -> ids


def shape(size: int) -> dict[str, int]:
    """Width, depth and heads of a model with about `size` parameters beside its tables: 12 L D^2.

    Deeper with size, as P^(2/9): two layers of 10,000, five of a million.

    Raises:
      UserError: fewer than 2,000, of which no model with two heads is left.
    """
    if size < 2000:
        raise UserError(f"size: {size} parameters; give 2000 or more")
    L = max(2, round((size / 1000) ** (2 / 9)))
    heads = 2 if size < 60_000 else 4
    D = 2 * heads * round(math.sqrt(size / (12 * L)) / (2 * heads))
    F = 8 * round(D / 3)
    return {"width": D, "ffn": F, "layers": L, "heads": heads, "kv_heads": heads, "head_dim": D // heads}


def model_of(cell: Cell, vocabularies: Vocabularies) -> TransformerConfig:
    """One table of ids for all modalities of the run, one after another."""
    own = shape(cell.size)
    vocabulary = sum(vocabularies[part.modality][part.tokenizer] for part in cell.parts)
    return TransformerConfig(
        vocab_size=vocabulary,
        vision_vocab_size=0,
        remat="none",
        init_std=own["width"] ** -0.5,
        text_weight=1.0,
        vision_weight=0.0,
        **own,
    )


def cost(cell: Cell, vocabularies: Vocabularies) -> float:
    """FLOPs of its training."""
    return training_flops(model_of(cell, vocabularies), cell.tokens, CONTEXT)


def grid(vocabularies: Vocabularies, budget: float = 1.0) -> list[Cell]:
    """All runs, the cheapest first.

    Args:
      vocabularies: the first tokenizer of a modality is the one for its grid and for mixtures.
      budget: multiple of the compute of the largest run; both P and N grow by its square root.

    Raises:
      UserError: a budget under which fewer than three sizes or lengths are left.
    """
    if not 0 < budget < math.inf:
        raise UserError(f"budget: {budget}; give a number above 0, 1 for the grid of a laptop")
    sizes = ladder(SMALLEST, LARGEST * math.sqrt(budget), math.sqrt(10))
    lengths = ladder(FEWEST, MOST * math.sqrt(budget), 2.0)
    if min(len(sizes), len(lengths)) < 3:
        left = f"{len(sizes)} sizes and {len(lengths)} lengths"
        raise UserError(f"budget: {budget} leaves {left}; give 0.1 or more")
    first = {modality: next(iter(own)) for modality, own in vocabularies.items()}
    middle, found = sizes[1:-1], []

    def add(size: int, *parts: Part, seed: int = 0) -> None:
        found.append(Cell(size, parts, seed))

    for modality, own in vocabularies.items():
        for size, tokens in itertools.product(sizes, lengths):
            add(size, Part(modality, first[modality], tokens))
        for tokenizer, tokens in itertools.product(list(own)[1:], lengths[1::2]):
            add(middle[len(middle) // 2], Part(modality, tokenizer, tokens))
        for seed, tokens in itertools.product((1, 2), lengths[1::2]):
            add(middle[len(middle) // 2], Part(modality, first[modality], tokens), seed=seed)
    # Other modalities beside text: as much of each, and four times as much.
    own, *others = vocabularies
    mixtures: list[Sequence[str]] = [*([other] for other in others), others]
    for size, tokens, mixture, times in itertools.product(middle, lengths[1:-2:2], mixtures, (1, 4)):
        beside = (Part(other, first[other], times * tokens) for other in mixture)
        add(size, Part(own, first[own], tokens), *beside)
    return sorted(found, key=lambda cell: (cost(cell, vocabularies), cell.name))


def ladder(first: float, last: float, ratio: float) -> list[int]:
    """`first` times powers of `ratio`, up to `last`: of two digits, or whole powers of two as they are."""
    count = math.floor(math.log(last / first, ratio) + 1e-9) + 1
    steps = [first * ratio**index for index in range(count)]
    if ratio == 2:
        return [round(step) for step in steps]
    return [int(round(step, 1 - math.floor(math.log10(step)))) for step in steps]
