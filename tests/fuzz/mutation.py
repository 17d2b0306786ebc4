"""Spoils bytes: bits, blocks, lengths, and integers at their bounds; text also as text."""

import random
import struct
from collections.abc import Sequence

from tests.fuzz import text

_BLOCK = 64  # bytes of a block, at most
# What sizes and counts claim when they lie.
_NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**20, 2**24, 2**28, 2**30)
_NUMBERS += (2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def spoil(seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One of the seeds with one to five changes; one in fifty keeps none of its bytes."""
    content = rng.choice(seeds)
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    texts = text.is_text(content)
    for _ in range(min(1 + int(rng.expovariate(0.8)), 5)):
        if texts and rng.random() < 0.8:
            content = text.spoil(content, rng)
        else:
            content = rng.choice(_CHANGES)(content, rng, seeds)
    return content


def _flip(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return _with(content, rng, lambda old: bytes([old[0] ^ 1 << rng.randrange(8)]), 1)


def _byte(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return _with(
        content, rng, lambda old: bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))]), 1
    )


def _number(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Where a number may stand: most begin at even offsets near the start."""
    form = rng.choice("HIIIQQQ")
    size = struct.calcsize(form)
    value = rng.choice(_NUMBERS) + rng.choice((0, 0, 0, rng.randrange(-9, 10)))
    packed = struct.pack(rng.choice("<<>") + form, value % 2 ** (8 * size))
    at = rng.randrange(max(len(content) - size, 1))
    at = at - at % size if rng.random() < 0.5 else at
    return content[:at] + packed + content[at + size :]


def _nudge(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return _with(content, rng, lambda old: bytes([(old[0] + rng.choice((-1, 1, -8, 8))) % 256]), 1)


def _cut(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _drop(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return _with(content, rng, lambda old: b"", rng.randrange(1, _BLOCK))


def _double(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    times = rng.choice((2, 2, 3, 50))
    return _with(content, rng, lambda old: old * times, rng.randrange(1, _BLOCK))


def _insert(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    noise = rng.choice((rng.randbytes(rng.randrange(1, _BLOCK)), b"\0" * rng.choice((1, 8, 64)), b"\xff" * 8))
    return _with(content, rng, lambda old: noise, 0)


def _swap(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    size = rng.randrange(1, _BLOCK)
    one, other = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    middle = content[one + size : other]
    return (
        content[:one]
        + content[other : other + size]
        + middle
        + content[one : one + size]
        + content[other + size :]
    )


def _splice(content: bytes, rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


_CHANGES = (
    _flip,
    _flip,
    _byte,
    _number,
    _number,
    _number,
    _nudge,
    _cut,
    _drop,
    _double,
    _insert,
    _swap,
    _splice,
)


def _with(content: bytes, rng: random.Random, change, size: int) -> bytes:
    """The content with a stretch of `size` bytes changed."""
    if not content:
        return rng.randbytes(size)
    at = rng.randrange(len(content))
    return content[:at] + change(content[at : at + max(size, 1)] or b"\0") + content[at + size :]
