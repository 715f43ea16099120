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

TRASH = ".trash"
"""The folder, beside the files, of the runs that undone publications rested on."""

_LONGEST_SLUG = 50

_FILE = ("dataset", "threat", "norm", "eps")
_TABLE = ("target", "target_config", "threat_config")
_ROW = (*_FILE, *_TABLE, "defense", "defense_config")

_WHOLE = ("rank", "n", "seeds", "target_seed", "defense_seed", "attack_seed")
_REAL = (
    *("eps", "clean_error", "error", "error_low", "error_high", "gap", "psnr", "ssim", "purify_ms"),
    *("clean_error_target", "error_target", "error_baseline", "gain", "attack_success", "recovered"),
    *("damaged", "error_8bit", "error_top5", "label_error", "psnr_adv", "ssim_adv", "l0", "l2", "linf"),
    *("craft_ms", "forwards", "backwards", "purifies"),
)
_TRUTHS = {"True": True, "False": False}
_MAY_BE_INFINITE = ("l0", "l2", "linf")


def identity(row: Row) -> tuple[Any, ...]:
    """What a row is about: there is one row for each."""
    return tuple(row[name] for name in _ROW)


def contest(row: Row) -> tuple[Any, ...]:
    """What a row is ranked within."""
    return tuple(row[name] for name in (*_FILE, *_TABLE))


def about(row: Row) -> str:
    """A row in words."""
    return (
        f"{row['defense']} on {row['target']}, {row['dataset']}, {row['threat']} {row['norm']} {row['eps']}"
    )


def file_name(row: Row) -> str:
    """The file that a row belongs to."""
    return f"{slug(row['dataset'])}-{slug(row['threat'])}-{slug(row['norm'])}-{row['eps']:g}.csv"


def slug(name: str) -> str:
    """A name as part of a file name; one that had to be changed ends in a digest, so that none coincide."""
    if re.fullmatch(r"[a-z0-9][a-z0-9-]*", name) and len(name) <= _LONGEST_SLUG:
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
    unranked = [row for row in rows if row["bound"] == "found" and row["error"] is None]
    problems += [Problem(f"{about(row)} has no error", file=str(path)) for row in unranked]
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
    except FileNotFoundError:
        return [], [Problem("there is no such file", file=str(path))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [Problem(f"cannot be read: {error}", file=str(path))]
    if not lines or tuple(lines[0]) != tuple(columns):
        return [], [Problem(_other_columns(lines[0] if lines else [], columns), file=str(path), line=1)]
    rows, problems = [], []
    for number, line in enumerate(lines[1:], 2):
        try:
            if len(line) != len(columns):
                raise ValueError(f"has {len(line)} fields, not {len(columns)}")
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
        reader = _whole
    elif name in _REAL:
        reader = float if name in _MAY_BE_INFINITE else _finite
    elif name in ("control", "targeted"):
        reader = _TRUTHS.__getitem__
    try:
        return reader(text) if text else None
    except (ValueError, KeyError):
        raise ValueError(f"{name} cannot be {text!r}") from None


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]+", text):
        raise ValueError(text)
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not re.fullmatch(r"[-+.0-9e]+", text):
        raise ValueError(text)
    return value
