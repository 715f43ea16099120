"""The files of the published leaderboard: one CSV for each data set, threat and ball."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.evidence import grouped
from benchmark.leaderboard import COLUMNS as LEADERBOARD_COLUMNS
from benchmark.output import unmarked, write_csv
from benchmark.records import Row

COLUMNS = (*LEADERBOARD_COLUMNS, "explained", "protocol", "run", "commit", "key")
"""The columns of a published file, in order."""

RUNS = "runs"
"""The folder, beside the files, of the runs that published rows rest on."""

_FILE = ("dataset", "threat", "norm", "eps")
_TABLE = ("target", "target_config", "threat_config")
_ROW = (*_FILE, *_TABLE, "defense", "defense_config")

_WHOLE = ("rank", "n", "seeds")
_REAL = (
    *("eps", "clean_error", "error", "error_low", "error_high", "gap", "psnr", "ssim"),
    "purify_ms",
)
_TRUTHS = {"True": True, "False": False}


def identity(row: Row) -> tuple[Any, ...]:
    """What a row is about: there is one row for each."""
    return tuple(row[name] for name in _ROW)


def contest(row: Row) -> tuple[Any, ...]:
    """What a row is ranked within."""
    return tuple(row[name] for name in (*_FILE, *_TABLE))


def file_name(row: Row) -> str:
    """The file that a row belongs to."""
    return f"{slug(row['dataset'])}-{slug(row['threat'])}-{row['norm']}-{row['eps']:g}.csv"


def slug(name: str) -> str:
    """A name as part of a file name; one that had to be changed ends in a digest, so that none coincide."""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{plain[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def ranked(rows: Iterable[Row]) -> list[Row]:
    """The rows of a file in its order: by contest, then by rank; equal errors share a rank.

    Rows in doubt have no rank and come last.
    """
    ordered: list[Row] = []
    for members in grouped(sorted(rows, key=lambda row: repr(identity(row))), contest):
        claims = sorted((row for row in members if row["bound"] == "found"), key=lambda row: row["error"])
        errors = [row["error"] for row in claims]
        ordered += [row | {"rank": errors.index(row["error"]) + 1} for row in claims]
        ordered += [row | {"rank": None} for row in members if row["bound"] != "found"]
    return ordered


def read_board(path: Path) -> list[Row]:
    """The rows of a published file; none where it is not there.

    Raises:
        UserError: It is not such a file.
    """
    if not path.is_file():
        return []
    rows, problems = read_rows(path, COLUMNS)
    if problems:
        raise UserError(problems)
    return rows


def write_board(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, ranked; without any, the file goes."""
    if rows:
        write_csv(path, COLUMNS, ranked(rows))
    else:
        path.unlink(missing_ok=True)


def read_rows(path: Path, columns: Sequence[str]) -> tuple[list[Row], list[Problem]]:
    """The rows of a CSV with values as numbers, truths and text, and what is wrong in it.

    Args:
        path: The file.
        columns: The columns that it must have, in order.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [Problem(f"cannot be read: {error}", file=str(path))]
    if not lines or tuple(lines[0]) != tuple(columns):
        return [], [Problem(_other_columns(lines[0] if lines else [], columns), file=str(path), line=1)]
    rows, problems = [], []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append(_row(dict(zip(columns, line, strict=True))))
        except ValueError as error:
            problems.append(Problem(str(error), file=str(path), line=number))
    return rows, problems


def _other_columns(found: Sequence[str], columns: Sequence[str]) -> str:
    missing = [name for name in columns if name not in found]
    strange = [name for name in found if name not in columns]
    if not missing and not strange:
        return "its columns are in another order"
    told = [f"no column {', '.join(missing)}"] * bool(missing)
    told += [f"unknown columns {', '.join(strange)}"] * bool(strange)
    return "its columns are others: " + "; ".join(told)


def _row(text: Mapping[str, str]) -> Row:
    return {name: _value(name, value) for name, value in text.items()}


def _value(name: str, text: str) -> Any:
    reader: Callable[[str], Any] = unmarked
    if name in _WHOLE:
        reader = int
    elif name in _REAL:
        reader = _number
    elif name == "control":
        reader = _TRUTHS.__getitem__
    try:
        return reader(text) if text else None
    except (ValueError, KeyError):
        raise ValueError(f"{name} cannot be {text!r}") from None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
