"""Finished runs as arrays, and a CSV of runs read with every cell checked."""

import csv
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lwm.errors import UserError


class TooFewRuns(UserError):
    """A table that may be sound, but has not the rows yet that a question needs."""


class Runs(NamedTuple):
    """What was trained and how well it did: one row a run.

    Attributes:
      parameters: float64 [runs], above 0.
      tokens: float64 [runs, modalities] that were trained on; 0 where a run lacks a modality.
      loss: float64 [runs], above 0, of the modality `target` or of all together; nats a token, bits a byte…
        as the caller likes, but alike in all rows. NaN where a loss is to be predicted.
      target: the column of `tokens` that `loss` belongs to.
    """

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    target: int = 0

    @property
    def size(self) -> int:
        return len(self.parameters)

    @property
    def modalities(self) -> int:
        return self.tokens.shape[1]

    def take(self, rows: np.ndarray) -> "Runs":
        """The rows of a mask, or of indices that may repeat."""
        return self._replace(parameters=self.parameters[rows], tokens=self.tokens[rows], loss=self.loss[rows])


def make_runs(parameters, tokens, loss=None, *, target: int = 0) -> Runs:
    """Runs from anything like arrays; `tokens` may be [runs] for a single modality.

    Raises:
      UserError: columns that differ in length, a value that is no number, parameters or losses that are not
        above 0, tokens below 0 or rows without any.
    """
    parameters = np.atleast_1d(np.asarray(parameters, float))
    tokens = np.asarray(tokens, float)
    tokens = tokens.reshape(len(parameters), -1) if tokens.ndim < 2 else tokens
    asked = loss is not None
    loss = np.atleast_1d(np.asarray(loss, float)) if asked else np.full(len(parameters), math.nan)
    if not len(parameters) == len(tokens) == len(loss):
        lengths = f"{len(parameters)} parameters, {len(tokens)} tokens, {len(loss)} losses"
        raise UserError(f"runs: {lengths}; give one of each for every run")
    if not 0 <= target < tokens.shape[1]:
        raise UserError(f"target: {target}; tokens have the columns 0 to {tokens.shape[1] - 1}")
    _refuse("parameters", parameters, ~(np.isfinite(parameters) & (parameters > 0)), "above 0")
    if asked:
        _refuse("loss", loss, ~(np.isfinite(loss) & (loss > 0)), "above 0")
    bad = ~(np.isfinite(tokens) & (tokens >= 0)).all(1) | ~(tokens.sum(1) > 0)
    _refuse("tokens", tokens, bad, "0 or more, and above 0 in some modality")
    return Runs(parameters, tokens, loss, target)


def read_columns(
    path: os.PathLike | str, columns: Sequence[str], *, only: Mapping[str, str] | None = None
) -> dict[str, np.ndarray]:
    """Columns of numbers from a CSV with a header.

    Args:
      only: rows are kept whose cells under these names are these texts; all rows if None.

    Returns:
      float64 [rows] for every name in `columns`; cells are finite, and 0 or above.

    Raises:
      UserError: no such file, not a CSV in UTF-8, a column missing, or a cell that is empty, no number, NaN,
        infinite or below 0; with the line of the file.
      TooFewRuns: no rows.
    """
    path, only = pathlib.Path(path), dict(only or {})
    found: dict[str, list[float]] = {name: [] for name in columns}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            if missing := [name for name in (*columns, *only) if name not in header]:
                has = ", ".join(header) or "none"
                raise UserError(f"{path}: no column {', '.join(map(repr, missing))}; its columns are {has}")
            for row in reader:
                if all(row[name] == value for name, value in only.items()):
                    for name, cells in found.items():
                        cells.append(_number(row[name], name, f"{path}, line {reader.line_num}"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a CSV of runs") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error}); give a CSV of runs") from error
    if not all(found.values()):
        kept = f" with {', '.join(f'{name} = {value}' for name, value in only.items())}" if only else ""
        raise TooFewRuns(f"{path}: no rows{kept}; give a CSV with a line for every run")
    return {name: np.array(cells) for name, cells in found.items()}


def read_runs(
    path: os.PathLike | str,
    *,
    parameters: str = "parameters",
    tokens: str | Sequence[str] = "tokens",
    loss: str = "loss",
    target: int = 0,
    only: Mapping[str, str] | None = None,
) -> Runs:
    """Runs from a CSV, by the names of its columns; `read_columns` and `make_runs` say what is refused."""
    tokens = (tokens,) if isinstance(tokens, str) else tuple(tokens)
    table = read_columns(path, (parameters, *tokens, loss), only=only)
    try:
        stacked = np.stack([table[name] for name in tokens], 1)
        return make_runs(table[parameters], stacked, table[loss], target=target)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _number(text: str | None, name: str, place: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise UserError(f"{place}: {name} is {text!r}; give a number, or drop the row") from None
    if not (math.isfinite(value) and value >= 0):
        raise UserError(f"{place}: {name} is {text}; give a number of 0 or more, or drop the row")
    return value


def _refuse(name: str, values: np.ndarray, bad: np.ndarray, rule: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        shown = ", ".join(f"{value:g}" for value in np.atleast_1d(values[row]))
        raise UserError(f"{name}: {shown} in run {row + 1} of {len(values)}; must be {rule}")
