"""Publishes the rows of a run on the leaderboard, with a history, and undoes publications."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmark.errors import Problem, UserError
from benchmark.files.names import child, inside, name_fault
from benchmark.files.tables import Row
from benchmark.files.writing import copy_regular_file, make_output_folder, write_text
from benchmark.plugins.registry import Registry
from benchmark.publishing.board_changes import BoardChange, describe_changes, plan_changes, same_row
from benchmark.publishing.board_files import RUNS, TRASH, describe_row, file_name, read_board, row_identity
from benchmark.publishing.published_run import FILES, PLUGINS, Run

_HISTORY = "history.jsonl"


@dataclass(frozen=True)
class _Publication:
    """A line of the history: one run and the changes that published it."""

    date: str
    run: str
    changes: list[BoardChange]


def publish_rows(
    board: Path, run: Run, rows: Sequence[Row], plugins: Sequence[Path], registry: Registry
) -> list[str]:
    """Put rows on the board with the files of their run, and return the changes as lines of text.

    Raises:
        UserError: As `plan_changes`; or the board cannot be written.
    """
    with _lock(board):
        changes = plan_changes(board, run, rows, registry)
        lines = list(describe_changes(board, changes))
        changes = [change for change in changes if change.coming]
        if not changes:
            return lines
        _copy_run(child(child(board, RUNS), run.name), run, plugins)
        # The history comes first: a publication that is interrupted after it can be undone or repeated.
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        publication = _Publication(date, run.name, changes)
        history = _read_history(board)
        if not history or replace(history[-1], date=date) != publication:
            _write_history(board, [*history, publication])
        for change in changes:
            change.write(board)
        return lines


def _copy_run(folder: Path, run: Run, plugins: Sequence[Path]) -> None:
    """Copy the files that published rows depend on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if os.path.lexists(run.folder / name):
            copy_regular_file(run.folder / name, child(folder, name))
    for path in plugins:
        if path.name in run.plugins:
            kept = child(folder, PLUGINS)
            kept.mkdir(exist_ok=True)
            copy_regular_file(path, child(kept, path.name))


def plan_undo(board: Path) -> list[BoardChange]:
    """The changes that undo the last publication.

    Raises:
        UserError: Nothing was published, or one of the published rows was replaced by other means.
    """
    history = _read_history(board)
    if not history:
        raise UserError(f"nothing to undo: {board / _HISTORY} has no entry")
    changes = []
    for change in history[-1].changes:
        current = {row_identity(row): row for row in read_board(board / change.file)}
        before = {row_identity(row): row for row in change.going}
        for row in change.coming:
            found = current.get(key := row_identity(row))
            # After an interrupted publication the file still has the row from before it.
            if found is not None and not same_row(row, found) and not same_row(found, before.get(key)):
                message = f"the row of {describe_row(row)} is not the one that was published last"
                raise UserError(Problem(message, file=str(board / change.file)))
        changes.append(BoardChange(change.file, change.coming, change.going))
    return changes


def undo_publication(board: Path) -> list[str]:
    """Undo the last publication, and return the changes as lines of text.

    Only rows are deleted: their run moves to the trash folder of the board.

    Raises:
        UserError: As `plan_undo`; or the board cannot be written.
    """
    plan_undo(board)  # refuses before `_lock` could create a board
    with _lock(board):
        changes = plan_undo(board)
        lines = list(describe_changes(board, changes))
        for change in changes:
            change.write(board)
        *history, undone = _read_history(board)
        _write_history(board, history)
        rows = [row for entry in history for change in entry.changes for row in change.coming]
        rows += [row for file in board.glob("*.csv") for row in read_board(file)]
        if undone.run not in {row["run"] for row in rows}:
            lines += _discard_run(board, undone.run)
        return lines


def _discard_run(board: Path, name: str) -> Iterator[str]:
    """Move the folder of a run to the trash, under a new name."""
    folder = child(child(board, RUNS), name)
    if not folder.is_dir() or folder.is_symlink():
        return
    trash = inside(board, board / TRASH)
    trash.mkdir(exist_ok=True)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    paths = (trash / f"{name}-{stamp}{f'-{n}' if n else ''}" for n in itertools.count())
    path = next(path for path in paths if not os.path.lexists(path))
    folder.rename(path)
    yield f"the run is kept in {path}"


def _lock(board: Path) -> FileLock:
    """The lock of the board: two writers at once would lose each other's rows."""
    make_output_folder(board, "--board")
    return FileLock(inside(board, board / ".lock"))  # `inside`: locking truncates the file


def _read_history(board: Path) -> list[_Publication]:
    path = board / _HISTORY
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [_parse_publication(json.loads(line)) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the history of a leaderboard: {error!r}") from error


def _parse_publication(entry: Any) -> _Publication:
    """Parse a line of the history. It must not name files outside of the board, which `undo` would change."""
    if (fault := name_fault(entry["run"])) is not None:
        raise ValueError(f"the name of a run, {entry['run']!r}, {fault}")
    changes = [BoardChange(**change) for change in entry["changes"]]
    for change in changes:
        others = {file_name(row) for row in (*change.going, *change.coming)} - {change.file}
        if others or name_fault(change.file) is not None:
            raise ValueError(f"an entry names the file {change.file!r}")
    return _Publication(entry["date"], entry["run"], changes)


def _write_history(board: Path, history: Sequence[_Publication]) -> None:
    if history:
        write_text(board / _HISTORY, "".join(json.dumps(asdict(entry)) + "\n" for entry in history))
    else:
        (board / _HISTORY).unlink(missing_ok=True)
