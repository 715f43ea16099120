"""Whether the files of a finished run are those that a run would write now.

A note in the folder of the run records what its files were made from, and their sizes and times.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmark.execution.context import ExecutionContext, address
from benchmark.execution.executor import split_by_store
from benchmark.files.tables import Row
from benchmark.files.writing import write_json
from benchmark.plan.plan import Plan
from benchmark.results.reading import read_records
from benchmark.storage.keys import digest

_NOTE = "made-from.json"

Stamp = list[int]
"""The size in bytes and the time in nanoseconds of a file."""


def digest_of_inputs(plan: Plan, context: ExecutionContext, settings: Mapping[str, Any]) -> str | None:
    """Identifies everything that the files of a run are made from; `settings` is what is no result.

    None if a result is missing, or if the store cannot say whether a result has changed.
    """
    missing, cached = split_by_store(plan, context)
    if missing:
        return None
    stamps = {task.key: context.store.stamp(address(task)) for task in plan.tasks}
    if any(stamps[task.key] is None for task in cached):
        return None
    cells = [cell.identity | {"key": cell.key} for cell in plan.cells]
    return digest({"cells": cells, "stamps": stamps, **settings})


def unchanged_records(out: Path, inputs: str) -> list[Row] | None:
    """The records in the folder of a run; None if a file was changed, or was made from something else."""
    try:
        note = json.loads((out / _NOTE).read_text(encoding="utf-8"))
        if note["inputs"] != inputs or note["files"] != _stamps(out, note["files"]):
            return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    records = read_records(out).astype(object)
    return records.where(records.notna(), None).to_dict("records")  # type: ignore[no-any-return]


def note_inputs(out: Path, inputs: str | None, files: Iterable[str]) -> None:
    """Record what the files of a run were made from, after they are written."""
    if inputs is None:
        (out / _NOTE).unlink(missing_ok=True)
    else:
        write_json(out / _NOTE, {"inputs": inputs, "files": _stamps(out, files)})


def _stamps(out: Path, files: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of those of the files that exist."""
    found = {name: (out / name).lstat() for name in files if (out / name).exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in found.items()}
