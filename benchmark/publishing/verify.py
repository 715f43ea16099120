"""Whether a published file holds: its columns, keys, ranks and doubts, and what its rows rest on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.errors import Problem, UserError
from benchmark.file_names import name_fault
from benchmark.keys import SCHEMA
from benchmark.publishing.boards import COLUMNS, RUNS, about, file_name, identity, ranked, read_rows
from benchmark.publishing.contests import contest_problems, controls
from benchmark.publishing.rows import doubts, grounds_problems, is_mapping, row_problems
from benchmark.publishing.run import RunOf, plugin_problems, runs_in
from benchmark.records import Row
from benchmark.registry import Registry


def verify(path: Path, registry: Registry) -> list[Problem]:
    """All that is wrong with a published file; its rows' runs are looked for beside it.

    Args:
        path: The file.
        registry: To know the controls.
    """
    rows, problems = read_rows(path, COLUMNS)
    if problems:
        return problems
    needed, run_of = controls(registry), runs_in(path.parent / RUNS)
    for number, row in enumerate(rows, 2):
        found = list(row_problems(row, needed)) or list(_published_problems(row, path))
        found = found or list(_run_problems(row, run_of))
        problems += [Problem(text, file=str(path), line=number) for text in found]
    if not problems:
        found = [*_order_problems(rows), *contest_problems(rows, run_of, needed)]
        problems = [Problem(text, file=str(path)) for text in found]
    return problems


def older_schemas(path: Path) -> list[int]:
    """The schemas of keys, other than today's, of the runs that the rows of a sound file rest on."""
    rows, _ = read_rows(path, COLUMNS)
    run_of = runs_in(path.parent / RUNS)
    return sorted({run_of(row).schema for row in rows} - {SCHEMA})


def _published_problems(row: Row, path: Path) -> Iterator[str]:
    """What is wrong with a sound row where it stands."""
    missing = [name for name in ("protocol", "run", "commit", "key") if row[name] is None]
    if missing:
        yield f"{', '.join(missing)} is empty"
    elif (fault := name_fault(row["run"])) is not None:
        yield f"run {row['run']!r} is no name: it {fault}"
    if file_name(row) != path.name:
        yield f"the row belongs into {file_name(row)}"
    explained = json.loads(row["explained"] or "{}") if is_mapping(row["explained"]) else {}
    silent = [flag for flag in doubts(row["flags"]) if not str(explained.get(flag, "")).strip()]
    if silent:
        yield f"nothing explains the doubts {', '.join(silent)}"


def _run_problems(row: Row, run_of: RunOf) -> Iterator[str]:
    """What the run says otherwise that the row rests on."""
    try:
        run = run_of(row)
        if not run.folder.is_dir():
            yield f"run {row['run']}, which the row rests on, is not in {run.folder.parent}"
            return
        if run.name != row["run"]:
            yield f"the files in {run.folder} are not those that it was published with"
            return
        if run.commit != row["commit"]:
            yield f"commit is {row['commit']}, but run {row['run']} was made by {run.commit}"
        if run.key(row) != row["key"]:
            yield f"key is not the one of its cells in run {row['run']}"
        if run.protocol(row) != row["protocol"]:
            yield f"protocol is not the one of run {row['run']}"
        yield from (problem.message for problem in plugin_problems(run, run.kept_plugins))
        yield from grounds_problems(row, run)
    except UserError as error:
        yield f"run {row['run']}, which the row rests on, cannot be read: {error}"


def _order_problems(rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        yield "has no rows"
    twice = [key for key, count in Counter(identity(row) for row in rows).items() if count > 1]
    if twice:
        row = next(row for row in rows if identity(row) == twice[0])
        yield f"two rows are of {about(row)} with the same parameters"
        return
    wrong = [row for row, right in zip(rows, ranked(rows), strict=True) if row != right]
    if wrong:
        yield f"ranks or the order of rows do not follow from the errors, first at {wrong[0]['defense']}"
