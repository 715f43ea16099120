"""`outcomes.parquet`: the outcomes of every image of every cell of a run, written cell by cell."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pyarrow
import pyarrow.parquet

from benchmark.files.writing import replacing
from benchmark.plan.cells import Cell
from benchmark.results.records import Result

_CLASS_NAMES = "class_names"


class OutcomesFile:
    """Writer of `outcomes.parquet`, with one row group per cell; a context manager.

    The file appears under its name when it is complete. Its metadata hold the class names of each data set.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = ExitStack()
        self._writer: pyarrow.parquet.ParquetWriter | None = None
        self._class_names: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> OutcomesFile:
        return self

    def add(self, cell: Cell, result: Result) -> None:
        """Append the outcomes of a cell, with its key."""
        if result.outcomes is None:
            return
        table = result.outcomes
        for name, dtype in (("in_top5", pyarrow.bool_()), ("decided", pyarrow.int64())):
            if name not in table.column_names:
                table = table.append_column(name, pyarrow.nulls(len(table), dtype))
        table = table.add_column(0, "key", pyarrow.array([cell.key] * len(table)).dictionary_encode())
        if self._writer is None:
            file = self._file.enter_context(replacing(self._path))
            self._writer = pyarrow.parquet.ParquetWriter(file, table.schema)
        self._writer.write_table(table.select(self._writer.schema.names))
        self._class_names[cell.dataset.title] = cell.dataset.class_names

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._writer is not None:
            with self._file:  # a footer that cannot be written removes the temporary file as well
                self._writer.add_key_value_metadata({_CLASS_NAMES: json.dumps(self._class_names)})
                self._writer.close()
                if error is not None:
                    raise error
        elif kind is None:
            self._path.unlink(missing_ok=True)  # the outcomes of an earlier run must not pass for this one's


def read_class_names(path: Path) -> dict[str, list[str]]:
    """The class names for the labels in an `outcomes.parquet`, by the title of the data set."""
    metadata = pyarrow.parquet.read_metadata(path).metadata or {}
    return json.loads(metadata.get(_CLASS_NAMES.encode(), b"{}"))  # type: ignore[no-any-return]
