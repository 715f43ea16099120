"""Reads, ranks and writes the files of the leaderboard: one CSV per data set, threat and ball."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import Problem, UserError
from benchmark.files.tables import Row, unescape_formula, write_csv
from benchmark.results.cell_outcomes import group_by
from benchmark.results.columns import COLUMNS, LEADERBOARD_COLUMNS

BOARD_COLUMNS = (*LEADERBOARD_COLUMNS, "explained", "protocol", "run", "commit", "key")
"""The columns of a published file, in order."""

RUNS = "runs"
"""The subfolder of the board with the runs of its rows."""

TRASH = ".trash"
"""The subfolder of the board that receives the runs of undone publications."""

_LONGEST_SLUG = 50

_FILE_COLUMNS = ("dataset", "threat", "norm", "eps")
_GROUP_COLUMNS = (*_FILE_COLUMNS, "target", "target_config", "threat_config")
_IDENTITY_COLUMNS = (*_GROUP_COLUMNS, "defense", "defense_config")

_BOOLEANS = {"True": True, "False": False}


def row_identity(row: Row) -> tuple[Any, ...]:
    """The values that identify a row; a board has one row for each."""
    return tuple(row[name] for name in _IDENTITY_COLUMNS)


def board_group(row: Row) -> tuple[Any, ...]:
    """The values that rows have in common if they are ranked against each other."""
    return tuple(row[name] for name in _GROUP_COLUMNS)


def describe_row(row: Row) -> str:
    """A row in words, for messages."""
    place = f"{row['dataset']}, {row['threat']} {row['norm']} {row['eps']}"
    return f"{row['defense']} on {row['target']}, {place}"


def file_name(row: Row) -> str:
    """The name of the file that a row belongs to."""
    return f"{slug(row['dataset'])}-{slug(row['threat'])}-{slug(row['norm'])}-{row['eps']:g}.csv"


def slug(name: str) -> str:
    """A name as part of a file name; a changed name ends in a digest, so that no two names coincide."""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) and len(name) <= _LONGEST_SLUG:
        return name
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{plain[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def rank_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows of a file in order: by group, then by rank; equal errors share a rank.

    Rows with a doubt get no rank and come last in their group.
    """
    ordered: list[Row] = []
    for group in group_by(sorted(rows, key=lambda row: repr(row_identity(row))), board_group).values():
        sound = sorted((row for row in group if row["bound"] == "found"), key=lambda row: row["error"])
        errors = [row["error"] for row in sound]
        ordered += [row | {"rank": errors.index(row["error"]) + 1} for row in sound]
        ordered += [row | {"rank": None} for row in group if row["bound"] != "found"]
    return ordered


def read_board(path: Path) -> list[Row]:
    """The rows of a published file; an empty list if the file does not exist.

    Raises:
        UserError: The file is not a valid published file.
    """
    if not path.is_file():
        return []
    rows, problems = read_rows(path, BOARD_COLUMNS)
    unranked = [row for row in rows if row["bound"] == "found" and row["error"] is None]
    problems += [Problem(f"{describe_row(row)} has no error", file=str(path)) for row in unranked]
    if problems:
        raise UserError(problems)
    return rows


def write_board(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows with their ranks; without rows, remove the file."""
    if rows:
        write_csv(path, BOARD_COLUMNS, rank_rows(rows))
    else:
        path.unlink(missing_ok=True)


def read_rows(path: Path, columns: Sequence[str]) -> tuple[list[Row], list[Problem]]:
    """Read a CSV that must have the given columns, in order.

    Returns:
        The rows that could be read, whose values are numbers, booleans, text, and None for an empty field;
        and the problems of the file and of the other rows.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        return [], [Problem("no such file", file=str(path))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [Problem(f"cannot be read: {error}", file=str(path))]
    header = lines[0] if lines else []
    if tuple(header) != tuple(columns):
        return [], [Problem(_column_problem(header, columns), file=str(path), line=1)]
    rows, problems = [], []
    for number, line in enumerate(lines[1:], 2):
        try:
            if len(line) != len(columns):
                raise ValueError(f"has {len(line)} fields, not {len(columns)}")
            rows.append({name: _parse(name, text) for name, text in zip(columns, line, strict=True)})
        except ValueError as error:
            problems.append(Problem(str(error), file=str(path), line=number))
    return rows, problems


def _column_problem(found: Sequence[str], columns: Sequence[str]) -> str:
    missing = [name for name in columns if name not in found]
    unknown = [name for name in found if name not in columns]
    details = [f"no column {', '.join(missing)}"] * bool(missing)
    details += [f"unknown columns {', '.join(unknown)}"] * bool(unknown)
    return "wrong columns: " + "; ".join(details) if details else "the columns are in the wrong order"


def _parse(column: str, text: str) -> Any:
    known = COLUMNS.get(column)
    dtype = str if known is None else known.dtype
    try:
        if not text or dtype is str:
            return unescape_formula(text) if text else None
        if dtype is bool:
            return _BOOLEANS[text]
        if dtype is int and re.fullmatch(r"[0-9]+", text):
            return int(text)
        value = float(text)
        if dtype is float and known is not None and known.may_be_infinite:
            return value
        if dtype is float and math.isfinite(value) and re.fullmatch(r"[-+.0-9e]+", text):
            return value
    except (ValueError, KeyError):
        pass
    raise ValueError(f"{column} cannot be {text!r}")
