"""Checks of a published file: columns, keys, ranks and doubts, and agreement with the runs of its rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.errors import Problem, UserError
from benchmark.files.names import name_fault
from benchmark.files.tables import Row
from benchmark.plugins.registry import Registry
from benchmark.publishing import board_files
from benchmark.publishing.board_files import BOARD_COLUMNS, RUNS, read_rows, row_identity
from benchmark.publishing.comparability import comparability_problems, control_configs
from benchmark.publishing.published_run import RunOf, plugin_problems, runs_in
from benchmark.publishing.row_checks import doubts, is_json_mapping, record_problems, row_problems
from benchmark.storage.keys import SCHEMA


def check_board(path: Path, registry: Registry) -> list[Problem]:
    """All problems of a published file; the runs of its rows lie in the folder beside it."""
    rows, problems = read_rows(path, BOARD_COLUMNS)
    if problems:
        return problems
    controls, run_of = control_configs(registry), runs_in(path.parent / RUNS)
    for number, row in enumerate(rows, 2):
        found = list(row_problems(row, controls)) or list(_publication_problems(row, path))
        found = found or list(_run_problems(row, run_of))
        problems += [Problem(text, file=str(path), line=number) for text in found]
    if not problems:
        found = [*_order_problems(rows), *comparability_problems(rows, run_of, controls)]
        problems = [Problem(text, file=str(path)) for text in found]
    return problems


def older_schemas(path: Path) -> list[int]:
    """The key schemas, other than the current one, of the runs of a file without problems."""
    rows, _ = read_rows(path, BOARD_COLUMNS)
    run_of = runs_in(path.parent / RUNS)
    return sorted({run_of(row).schema for row in rows} - {SCHEMA})


def _publication_problems(row: Row, path: Path) -> Iterator[str]:
    """Problems of the columns that publication adds, and of the file that the row is in."""
    missing = [name for name in ("protocol", "run", "commit", "key") if row[name] is None]
    if missing:
        yield f"{', '.join(missing)} is empty"
    elif (fault := name_fault(row["run"])) is not None:
        yield f"run {row['run']!r} is not a valid name: it {fault}"
    if (name := board_files.file_name(row)) != path.name:
        yield f"the row belongs in {name}"
    explained = json.loads(row["explained"] or "{}") if is_json_mapping(row["explained"]) else {}
    missing = [flag for flag in doubts(row["flags"]) if not str(explained.get(flag, "")).strip()]
    if missing:
        yield f"no explanation of the doubts {', '.join(missing)}"


def _run_problems(row: Row, run_of: RunOf) -> Iterator[str]:
    """Contradictions between a row and its run."""
    try:
        run = run_of(row)
        if not run.folder.is_dir():
            yield f"run {row['run']} is not in {run.folder.parent}"
            return
        if run.name != row["run"]:
            yield f"the files in {run.folder} were changed after publication"
            return
        if run.commit != row["commit"]:
            yield f"commit is {row['commit']}, but run {row['run']} was made by {run.commit}"
        if run.key(row) != row["key"]:
            yield f"key is not the one of its cells in run {row['run']}"
        if run.protocol(row) != row["protocol"]:
            yield f"protocol is not the one of run {row['run']}"
        yield from (problem.message for problem in plugin_problems(run, run.kept_plugins))
        yield from record_problems(row, run)
    except UserError as error:
        yield f"run {row['run']} cannot be read: {error}"


def _order_problems(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        yield "has no rows"
    counts = Counter(map(row_identity, rows))
    repeated = next((row for row in rows if counts[row_identity(row)] > 1), None)
    ranked = board_files.rank_rows(rows)
    if repeated is not None:
        yield f"two rows for {board_files.describe_row(repeated)} with the same parameters"
    elif wrong := [row for row, expected in zip(rows, ranked, strict=True) if row != expected]:
        yield f"ranks or the order of rows do not follow from the errors, first at {wrong[0]['defense']}"
