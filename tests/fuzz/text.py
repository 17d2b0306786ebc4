"""Spoils text: values and keys of JSON, lines, cells and words of any other."""

import json
import random
import re
from typing import Any

OUTSIDE = "../outside/secret"  # lies beside the sandbox; see sandbox.py
# Values that are right in JSON and wrong almost everywhere.
_VALUES = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, -1e-308, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**63, -(2**63), 2**64, 10**30, 10**400, "", " ", "x", "0", "nan", "\ud800", "a\udfffb", "\0"),
    *(
        "\n",
        "a\nb",
        "\u2028",
        "\ufeff",
        "%s",
        "{}",
        "..",
        "/",
        "/etc/passwd",
        OUTSIDE,
        f"../{OUTSIDE}",
        "a" * 300,
    ),
    *("x" * 5000, [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [0] * 300, list("abc")),
)
_LITERALS = (
    "null",
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "0",
    "9" * 5000,
    '"\\ud800"',
    "[" * 3000,
    '{"a":' * 2000,
)
_LITERALS += (
    '""',
    "{}",
    "[]",
    "\x00",
    "\ufeff",
    "1_0",
    "１",
    "'",
    '"',
    ",,",
    "\\",
    "\r",
    "\n\n",
    "<!--",
    "]]>",
)
_LITERALS += (
    "&x;",
    "&#0;",
    "<a>" * 3000,
    "(" * 500,
    "-" * 3000,
    ";",
    OUTSIDE,
    "/dev/zero",
    "é",
    "\U0001f408",
    "\x85",
)
_WORD = re.compile(r"[\w.+-]+")


def is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without control characters."""
    try:
        found = content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(found) and not re.search(r"[\x00-\x08\x0e-\x1f]", found)


def spoil(content: bytes, rng: random.Random) -> bytes:
    """One change: in a line that is JSON, in a value of it; else in words, lines or cells."""
    whole = content.decode("utf-8", errors="surrogateescape")
    lines = [whole] if rng.random() < 0.5 else whole.splitlines(keepends=True) or [whole]
    at = rng.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        end = "\n" if lines[at].endswith("\n") else ""
        lines[at] = json.dumps(_changed(value, rng), ensure_ascii=rng.random() < 0.5) + end
    else:
        lines = rng.choice(_CHANGES)(lines, at, rng)
    try:
        return "".join(lines).encode("utf-8", errors="surrogateescape")
    except UnicodeEncodeError:
        return "".join(lines).encode("utf-8", errors="surrogatepass")


def _changed(value: Any, rng: random.Random) -> Any:
    """The value with one change somewhere in it."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return _replaced(value, rng)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        kind = rng.randrange(8)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return value + [value[at]] * rng.choice((1, 3, 100))
        return value[:at] + [_changed(value[at], rng)] + value[at + 1 :]
    key, kind = rng.choice(list(value)), rng.randrange(10)
    if kind == 0:
        return {name: own for name, own in value.items() if name != key}
    if kind == 1:
        return value | {
            rng.choice(("", "x", key + "s", key.upper(), "\ud800", "..", "__class__", "0")): value[key]
        }
    if kind == 2:
        other = rng.choice(list(value))
        return value | {key: value[other], other: value[key]}
    return value | {key: _changed(value[key], rng)}


def _replaced(value: Any, rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return [value]
    if kind == 1:
        return {"x": value}
    if kind == 2:
        return str(value)
    if kind == 3 and isinstance(value, int | float):
        return value * rng.choice((-1, 0, 2, 1000, 2**31, 2**40)) + rng.choice((0, 1, -1))
    if kind == 4 and isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice(("\0", "\n", "/", "../", "\ud800", "{}", "\u202e", "0")) + value[at:]
    return rng.choice(_VALUES)


def _word(lines: list[str], at: int, rng: random.Random) -> list[str]:
    words = list(_WORD.finditer(lines[at]))
    if not words:
        return _literal(lines, at, rng)
    chosen = rng.choice(words)
    line = lines[at]
    lines[at] = line[: chosen.start()] + rng.choice(_LITERALS) + line[chosen.end() :]
    return lines


def _literal(lines: list[str], at: int, rng: random.Random) -> list[str]:
    place = rng.randrange(len(lines[at]) + 1)
    lines[at] = lines[at][:place] + rng.choice(_LITERALS) + lines[at][place:]
    return lines


def _double(lines: list[str], at: int, rng: random.Random) -> list[str]:
    return lines[:at] + lines[at : at + 1] * rng.choice((2, 3, 30)) + lines[at + 1 :]


def _drop(lines: list[str], at: int, rng: random.Random) -> list[str]:
    return lines[:at] + lines[at + 1 :]


def _swap(lines: list[str], at: int, rng: random.Random) -> list[str]:
    other = rng.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]
    return lines


_CHANGES = (_word, _word, _word, _literal, _double, _drop, _swap)
