"""The files of a run: written beside their final names and renamed, row by row where they are long."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmark.cells import Cell
from benchmark.errors import UserError
from benchmark.records import Result, Row
from benchmark.writing import replacing

_CLASS_NAMES = "class_names"

_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\t", "\r", "\n")
_PASSED_OVER = "' \u00a0\ufeff"


def open_out(path: Path, option: str = "--out") -> None:
    """Make the folder that an option names, for files to be written.

    Raises:
        UserError: It cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise UserError(
            f"the output folder {path} cannot be written: {error.strerror}",
            hint=f"name another one with {option}",
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write rows as CSV; what does not apply is empty."""
    with replacing(path) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _field(row[name]) for name in columns} for row in rows)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def _field(value: Any) -> Any:
    if value is None or value != value:
        return ""
    return repr(round(value, 9)) if isinstance(value, float) else inert(value)


def inert(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, marked as text by an apostrophe."""
    return f"'{value}" if isinstance(value, str) and _is_formula(value) else value


def unmarked(text: Any) -> Any:
    """What `inert` was given."""
    marked = isinstance(text, str) and text.startswith("'") and _is_formula(text)
    return text[1:] if marked else text


def _is_formula(text: str) -> bool:
    return text.lstrip(_PASSED_OVER).startswith(_FORMULA)


class OutcomesFile:
    """`outcomes.parquet`: the rows of every image of every cell, one row group per cell.

    The class names of each data set are in the file's metadata: `read_class_names`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = ExitStack()
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._class_names: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> OutcomesFile:
        return self

    def add(self, cell: Cell, result: Result) -> None:
        """Append the rows of a cell, with its key."""
        if result.outcomes is None:
            return
        table = result.outcomes
        for name, kind in (("in_top5", pyarrow.bool_()), ("decided", pyarrow.int64())):
            if name not in table.column_names:
                table = table.append_column(name, pyarrow.nulls(len(table), kind))
        table = table.add_column(0, "key", pyarrow.array([cell.key] * len(table)).dictionary_encode())
        if self._writer is None:
            file = self._file.enter_context(replacing(self._path))
            self._writer = pyarrow.parquet.ParquetWriter(file, table.schema)
        self._writer.write_table(table.select(self._writer.schema.names))
        self._class_names[cell.dataset.title] = cell.dataset.class_names

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with self._file:  # a footer that cannot be written removes the temporary file as well
                self._writer.add_key_value_metadata({_CLASS_NAMES: json.dumps(self._class_names)})
                self._writer.close()
                if error is not None:
                    raise error
        elif kind is None:
            self._path.unlink(missing_ok=True)  # no outcome: last time's must not stand for this run


def read_class_names(path: Path) -> dict[str, list[str]]:
    """What the labels and predictions in an `outcomes.parquet` stand for, by the title of the data set."""
    metadata = pyarrow.parquet.read_metadata(path).metadata or {}
    return json.loads(metadata.get(_CLASS_NAMES.encode(), b"{}"))  # type: ignore[no-any-return]
