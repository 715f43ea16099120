"""CSV files: rows are written, and text that a spreadsheet would run as a formula is escaped."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmark.files.writing import replacing

Row = dict[str, Any]
"""A row of a table: values by column name."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n")
"""Characters that a formula starts with; the escaped ones are the full-width forms of the first four."""

_IGNORED_STARTS = "' \u00a0\ufeff"
"""Characters that spreadsheets ignore in front of a formula."""


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows as CSV. None and NaN become empty fields, and floats are rounded to 9 digits."""
    with replacing(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _field(row[name]) for name in columns} for row in rows)


def _field(value: Any) -> Any:
    if value is None or value != value:
        return ""
    return repr(round(value, 9)) if isinstance(value, float) else escape_formula(value)


def escape_formula(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run as a formula (CSV injection)."""
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def unescape_formula(text: Any) -> Any:
    """Remove the apostrophe that `escape_formula` put before a text."""
    return text[1:] if isinstance(text, str) and text.startswith("'") and _is_formula(text) else text


def _is_formula(text: str) -> bool:
    return text.lstrip(_IGNORED_STARTS).startswith(_FORMULA_STARTS)
